#include "embedding/cpu/train_distance.h"

#include <algorithm>
#include <chrono>
#include <limits>

namespace seqkern {

namespace {

using Clock = std::chrono::steady_clock;

// Reaches `wanted` or gives up; a look at the clock takes as long as a round trip, so few of them.
bool wait_for(const std::atomic<int>& value, int wanted, Clock::time_point deadline) {
  for (;;) {
    for (int spin = 0; spin < 64; ++spin)
      if (value.load(std::memory_order_acquire) >= wanted) return true;
    if (Clock::now() > deadline) return false;
  }
}

}  // namespace

DistanceProbe::DistanceProbe(int64_t threads)
    : pairs_(threads / 2), balls_(new Ball[static_cast<size_t>(pairs_)]) {}

double DistanceProbe::round_trip(int64_t thread) {
  // A group's time is that of its throws or more, if somebody was interrupted: the shortest counts.
  constexpr int kGroups = 8, kTrips = 16;
  if (thread >= 2 * pairs_) return 0;
  Ball& ball = balls_[static_cast<size_t>(thread % pairs_)];
  const bool first = thread < pairs_;
  const Clock::time_point deadline = Clock::now() + std::chrono::milliseconds(1);
  ball.players.fetch_add(1, std::memory_order_acq_rel);
  if (!wait_for(ball.players, 2, deadline)) return 0;
  double shortest = std::numeric_limits<double>::infinity();
  for (int group = 0, throws = 0; group < kGroups; ++group) {
    const Clock::time_point start = Clock::now();
    for (int trip = 0; trip < kTrips; ++trip, throws += 2) {
      if (!first && !wait_for(ball.throws, throws + 1, deadline)) return 0;
      ball.throws.store(throws + (first ? 1 : 2), std::memory_order_release);
      if (first && !wait_for(ball.throws, throws + 2, deadline)) return 0;
    }
    const std::chrono::duration<double, std::nano> time = Clock::now() - start;
    shortest = std::min(shortest, time.count() / kTrips);
  }
  return shortest;
}

}  // namespace seqkern
