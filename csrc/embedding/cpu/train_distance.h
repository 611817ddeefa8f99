// How far apart two cores are, in the time that a cache line takes from one to the other and back.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

namespace seqkern {

// For the threads of one call, each of which measures once, at its beginning: every thread throws a
// number to the one half of all threads away, which throws it back.
class DistanceProbe {
 public:
  explicit DistanceProbe(int64_t threads);

  // Nanoseconds, 0 if the other thread did not answer within a millisecond: it has no core of its
  // own, or there is none.
  double round_trip(int64_t thread);

 private:
  struct alignas(64) Ball {
    std::atomic<int> players{0};
    alignas(64) std::atomic<int> throws{0};
  };

  const int64_t pairs_;
  const std::unique_ptr<Ball[]> balls_;
};

}  // namespace seqkern
