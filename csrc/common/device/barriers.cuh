// Barriers within a block and within a warp.
#pragma once

#include "common/device/platform.cuh"

namespace seqkern::device {

#ifdef __CUDACC__

// All threads of the block: what they did before is seen by all of them after.
SEQKERN_DEVICE void barrier(Place = here()) {
  __syncthreads();
}

// Named barriers 1 to 15 (0 is barrier()'s) join `count` threads, whole warps, of which some arrive
// without waiting (PTX ISA, "bar, barrier").
SEQKERN_DEVICE void named_barrier(int id, int count, Place = here()) {
  asm volatile("barrier.sync %0, %1;" ::"r"(id), "r"(count) : "memory");
}
SEQKERN_DEVICE void named_barrier_arrive(int id, int count, Place = here()) {
  asm volatile("barrier.arrive %0, %1;" ::"r"(id), "r"(count) : "memory");
}

// All lanes of the warp: what they did before is seen by all of them after.
SEQKERN_DEVICE void warp_sync(Place = here()) {
  __syncwarp();
}

#else

inline void barrier(Place place = here()) {
  emulator::barrier(place);
}
inline void named_barrier(int id, int count, Place place = here()) {
  emulator::named_barrier(id, count, true, place);
}
inline void named_barrier_arrive(int id, int count, Place place = here()) {
  emulator::named_barrier(id, count, false, place);
}
inline void warp_sync(Place place = here()) {
  emulator::warp_sync(place);
}

#endif

}  // namespace seqkern::device
