// A barrier for the threads of one parallel region.
#pragma once

#include <atomic>
#include <cstdint>

namespace seqkern {

// The work of a region is cut into `slots`; parallel_for hands each callback a range of them, and
// one callback may own them all. So the barrier counts slots, not threads: every callback arrives
// with the number of slots it owns.
class Barrier {
 public:
  explicit Barrier(int slots) : slots_(slots) {}

  void wait(int owned) {
    if (owned == slots_) return;
    const uint32_t generation = generation_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(owned, std::memory_order_acq_rel) + owned == slots_) {
      arrived_.store(0, std::memory_order_relaxed);
      generation_.store(generation + 1, std::memory_order_release);
    } else {
      wait_for_change(generation);
    }
  }

 private:
  // Spins briefly and then yields: pure spinning with more threads than cores costs milliseconds a
  // step.
  void wait_for_change(uint32_t generation);

  const int slots_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> generation_{0};
};

}  // namespace seqkern
