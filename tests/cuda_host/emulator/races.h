// Finds two threads that touch the same memory, one of them writing, when nothing orders them:
// whichever comes first here, on a GPU it may be the other.
//
// For every two bytes there are the last write and two of the reads since. (With more readers than
// two, a race with a third may be missed; another seed has other readers. Two threads that write
// neighbouring single bytes count as a race.)
#pragma once

#include "knowledge.h"
#include "shared_memory.h"

namespace seqkern::emulator {

struct History;

// The accesses to a stretch of memory: none yet.
class Histories {
 public:
  Histories() = default;
  Histories(const Histories&) = delete;
  Histories& operator=(const Histories&) = delete;
  ~Histories();

  void reserve(size_t bytes);
  // Notes an access of the running thread to `size` bytes at `offset`, and aborts if it races with
  // another that came at time `since` or later. name() says what lies there.
  void check(size_t offset, size_t size, Access access, Place place, Time since,
             std::string (*name)(size_t offset, const void* context), const void* context);

 private:
  History* begin_ = nullptr;
  size_t mapped_ = 0;
};

}  // namespace seqkern::emulator
