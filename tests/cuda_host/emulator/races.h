// Finds two threads that touch the same shared memory, one of them writing, when nothing orders
// them: whichever comes first here, on a GPU it may be the other.
//
// For every two bytes of shared memory there are the last write and two of the reads since. (With
// more readers than two, a race with a third may be missed; another seed has other readers. Two
// threads that write neighbouring single bytes count as a race.)
#pragma once

#include "machine.h"
#include "shared_memory.h"

namespace seqkern::emulator {

void begin_races(const char* memory, size_t bytes);
// Other blocks come: what was there before orders itself before them.
void forget_races();
void check_race(const char* address, size_t size, Access access, Place place);

// Whether anything in this thread's cluster joined other threads than all of a warp, block or
// cluster, so that what they know of each other differs from thread to thread.
bool by_pairs(const Thread& thread);

// What orders threads: each knows of all that the others did until now.
void order(Warp& warp);
void order(Block& block);
void order(const std::vector<Thread*>& threads);

// What a thread that arrives somewhere leaves for those that wait there.
class Knowledge {
 public:
  // All that it did and knows. machine.time has to go on before it does more.
  void add(const Thread& thread);
  void add(const Knowledge& other);
  void give(Thread& thread) const;  // it knows it from now on
  const std::vector<Time>& until() const { return until_; }

 private:
  std::vector<Time> until_;  // of each thread of the cluster
};

}  // namespace seqkern::emulator
