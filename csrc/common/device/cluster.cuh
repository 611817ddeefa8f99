// Blocks that run at the same time on neighbouring processors and reach each other's shared memory;
// see launch_clusters. For sm_90 and later (PTX ISA, "barrier.cluster", "mapa").
#pragma once

#include "common/device/platform.cuh"

namespace seqkern::device {

#ifdef __CUDACC__

// This block among those of its cluster, and their number.
SEQKERN_DEVICE int cluster_rank() {
  uint32_t rank = 0;
  SEQKERN_SINCE_SM90(asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank)));
  return rank;
}
SEQKERN_DEVICE int cluster_blocks() {
  uint32_t blocks = 0;
  SEQKERN_SINCE_SM90(asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(blocks)));
  return blocks;
}

// A barrier of all threads of the cluster in two halves: what they did before they arrived is seen
// by all of them after they waited.
SEQKERN_DEVICE void cluster_arrive(Place = here()) {
  SEQKERN_SINCE_SM90(asm volatile("barrier.cluster.arrive.release;" :: : "memory"));
}
SEQKERN_DEVICE void cluster_wait(Place = here()) {
  SEQKERN_SINCE_SM90(asm volatile("barrier.cluster.wait.acquire;" :: : "memory"));
}

// The address of the same variable of the cluster's block `rank`, for a pointer into this block's
// shared memory: all that reads, writes or updates takes it.
template <class T>
SEQKERN_DEVICE T* map_shared_rank(T* shared, int rank, Place = here()) {
  uint64_t address = 0;
  SEQKERN_SINCE_SM90(asm(
      "mapa.u64 %0, %1, %2;" : "=l"(address) : "l"(reinterpret_cast<uint64_t>(shared)), "r"(rank)));
  return reinterpret_cast<T*>(address);
}

#else

inline int cluster_rank() {
  return emulator::cluster_rank();
}
inline int cluster_blocks() {
  return emulator::cluster_blocks();
}
inline void cluster_arrive(Place place = here()) {
  emulator::cluster_arrive(place);
}
inline void cluster_wait(Place place = here()) {
  emulator::cluster_wait(place);
}
template <class T>
T* map_shared_rank(T* shared, int rank, Place place = here()) {
  return reinterpret_cast<T*>(emulator::map_shared_rank(shared, rank, place));
}

#endif

// A block reaches another one's shared memory only after a first barrier (before it, the other one
// may not have begun) and before a last one (after it, it may have ended).
SEQKERN_DEVICE void cluster_barrier(Place place = here()) {
  cluster_arrive(place);
  cluster_wait(place);
}

}  // namespace seqkern::device
