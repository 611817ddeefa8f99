// Barriers in shared memory that count arrivals and bytes (PTX ISA, "mbarrier"), for sm_90 and
// later: who waits need not be who arrives, and asynchronous copies arrive too.
#pragma once

#include "common/device/platform.cuh"

namespace seqkern::device {

// A variable of this type lies in shared memory. It goes through phases 0, 1, 2, ...: one ends when
// as many arrivals came as init() said and as many bytes as were announced, and the next begins.
struct Arrivals {
  uint64_t state;
};

#ifdef __CUDACC__

SEQKERN_DEVICE uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// By one thread, before all others, which see it after a barrier() (of the cluster, if other blocks
// arrive too).
SEQKERN_DEVICE void init(Arrivals* arrivals, int count, Place = here()) {
  SEQKERN_SINCE_SM90(
      asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(arrivals)),
                   "r"(count) : "memory");
      asm volatile("fence.mbarrier_init.release.cluster;" :: : "memory"));
}

// What this thread did before is seen by those that wait.
SEQKERN_DEVICE void arrive(Arrivals* arrivals, Place = here()) {
  SEQKERN_SINCE_SM90(asm volatile(
      "mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(arrivals)) : "memory"));
}

// Arrives and announces that `bytes` more will be copied before this phase may end.
SEQKERN_DEVICE void arrive_expecting(Arrivals* arrivals, int bytes, Place = here()) {
  SEQKERN_SINCE_SM90(asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(arrivals)),
      "r"(bytes) : "memory"));
}

// Arrives at the barrier of the cluster's block `rank`, which lies where `arrivals` lies here.
SEQKERN_DEVICE void arrive_at_rank(Arrivals* arrivals, int rank, Place = here()) {
  SEQKERN_SINCE_SM90(
      asm volatile("{\n.reg .b32 remote;\nmapa.shared::cluster.u32 remote, %0, %1;\n"
                   "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [remote];\n}" ::"r"(
                       shared_address(arrivals)),
                   "r"(rank) : "memory"));
}

// Whether the phase whose number has this last bit (0 or 1) has ended. It may wait a moment.
SEQKERN_DEVICE bool has_ended(const Arrivals* arrivals, int parity, Place = here()) {
  uint32_t ended = 0;
  SEQKERN_SINCE_SM90(
      asm volatile("{\n.reg .pred ended;\n"
                   "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 ended, [%1], %2;\n"
                   "selp.u32 %0, 1, 0, ended;\n}" : "=r"(ended) : "r"(shared_address(arrivals)),
                   "r"(parity) : "memory"));
  return ended != 0;
}

#else

inline void init(Arrivals* arrivals, int count, Place place = here()) {
  emulator::init_arrivals(arrivals, count, place);
}
inline void arrive(Arrivals* arrivals, Place place = here()) {
  emulator::arrive(arrivals, 0, place);
}
inline void arrive_expecting(Arrivals* arrivals, int bytes, Place place = here()) {
  emulator::arrive(arrivals, bytes, place);
}
inline void arrive_at_rank(Arrivals* arrivals, int rank, Place place = here()) {
  emulator::arrive(emulator::map_shared_rank(arrivals, rank, place), 0, place);
}
inline bool has_ended(const Arrivals* arrivals, int parity, Place place = here()) {
  return emulator::phase_has_ended(arrivals, parity, place);
}

#endif

SEQKERN_DEVICE void wait(const Arrivals* arrivals, int parity, Place place = here()) {
  while (!has_ended(arrivals, parity, place)) {
  }
}

}  // namespace seqkern::device
