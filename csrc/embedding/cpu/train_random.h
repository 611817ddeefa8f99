// The trainer's random numbers: SplitMix64 (Steele, Lea, Flood 2014), a counter that is mixed.
//
// Each purpose (subsampling, window sizes, negatives) has a sequence of its own, so that what a
// number decides does not depend on how the work is cut into batches.
#pragma once

#include <cstdint>

namespace seqkern {

class Random {
 public:
  Random(uint64_t seed, uint64_t stream) : state_(mixed(seed) ^ mixed(stream * kStep + 1)) {}

  uint64_t next() { return mixed(state_ += kStep); }
  uint32_t next32() { return static_cast<uint32_t>(next() >> 32); }

  // Uniform in [0, n), up to a bias of n / 2^32.
  uint32_t below(uint32_t n) { return static_cast<uint32_t>((uint64_t{next32()} * n) >> 32); }

 private:
  static constexpr uint64_t kStep = 0x9e3779b97f4a7c15;

  static uint64_t mixed(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }

  uint64_t state_;
};

}  // namespace seqkern
