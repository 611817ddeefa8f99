// Fibers: functions with a stack of their own that hand over to each other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace seqkern::emulator {

class Fiber {
 public:
  // The next switch to it calls `entry`, which must never return.
  void start(char* stack, size_t stack_bytes, void (*entry)());
  // Leaves `from`, which is the running one, until something switches to it.
  static void hand_over(Fiber& from, Fiber& to);
  // Whether more of the stack was used than there is.
  bool overflowed() const;

 private:
  void* state_ = nullptr;
  char* stack_ = nullptr;
};

// Memory for the stacks of `count` fibers, kept for the next launch. Pages that no stack has grown
// into take no memory.
class Stacks {
 public:
  static constexpr size_t kBytes = 128 * 1024;

  Stacks() = default;
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;
  ~Stacks();
  void reserve(size_t count);
  char* operator[](size_t i) const { return begin_ + i * kBytes; }

 private:
  char* begin_ = nullptr;
  size_t count_ = 0;
};

// `bytes` of zeros that take no memory until they are touched.
char* map_memory(size_t bytes);
void unmap_memory(char* begin, size_t bytes);

}  // namespace seqkern::emulator
