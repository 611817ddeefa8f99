#include "common/barrier.h"

#include <thread>

namespace seqkern {

namespace {

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

void Barrier::wait_for_change(uint32_t generation) {
  constexpr int kSpins = 1000;  // tens of microseconds: a few steps of a small layer
  for (int spins = 0; generation_.load(std::memory_order_acquire) == generation; ++spins)
    spins < kSpins ? pause() : std::this_thread::yield();
}

}  // namespace seqkern
