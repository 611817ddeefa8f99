// Copies from global into shared memory that go on while the thread computes (PTX ISA, "cp.async").
#pragma once

#include "common/device/platform.cuh"

namespace seqkern::device {

// Starts a copy of 4, 8 or 16 bytes, both addresses multiples of that; of the source only the first
// `valid` bytes are read, and the rest of the destination becomes 0. Shared memory is not to be
// looked at before wait_copies(), and by other threads not before a barrier after it.
#ifdef __CUDACC__

template <int bytes>
SEQKERN_DEVICE void copy_async(void* shared, const void* global, int valid = bytes,
                               Place = here()) {
  static_assert(bytes == 4 || bytes == 8 || bytes == 16, "cp.async copies 4, 8 or 16 bytes");
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  if constexpr (bytes == 16) {  // past L1
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(valid)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(global), "n"(bytes),
                 "r"(valid)
                 : "memory");
  }
}

// Makes one group of this thread's copies since the last group.
SEQKERN_DEVICE void commit_copies(Place = here()) {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most the last `pending` groups of this thread are still under way.
template <int pending>
SEQKERN_DEVICE void wait_copies(Place = here()) {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

#else

template <int bytes>
void copy_async(void* shared, const void* global, int valid = bytes, Place place = here()) {
  static_assert(bytes == 4 || bytes == 8 || bytes == 16, "cp.async copies 4, 8 or 16 bytes");
  emulator::copy_async(shared, global, bytes, valid, place);
}
inline void commit_copies(Place place = here()) {
  emulator::commit_copies(place);
}
template <int pending>
void wait_copies(Place place = here()) {
  emulator::wait_copies(pending, place);
}

#endif

}  // namespace seqkern::device
