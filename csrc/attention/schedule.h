// How the units of a call are spread over threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>

#include "attention/kernels.h"
#include "common/tensors.h"

namespace seqkern {

constexpr int64_t kAlignment = 64;

inline char* aligned(void* memory) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(memory);
  return reinterpret_cast<char*>((address + kAlignment - 1) / kAlignment * kAlignment);
}

// Runs `kernel(call, unit, place)` for every unit. While there are at least as many units as
// threads, each thread takes whole units; what is left is worked on by teams, so that one head
// still uses every thread. `work` is the call's number of multiplications: little work is not worth
// a second thread.
template <class Call>
void run_units(void (*kernel)(const Call&, int64_t, Place), const Call& call, int64_t units,
               double work, int64_t (*shared_bytes)(const Problem&, int),
               int64_t (*own_bytes)(const Problem&)) {
  if (units == 0) return;
  constexpr double kWorthAThread = 1e6;
  const int threads = static_cast<int>(
      std::min<double>(torch::stable::get_num_threads(), std::max(1.0, work / kWorthAThread)));
  const int64_t shared_units = units % threads;
  const int64_t whole_units = units - shared_units;
  const int team_size = shared_units ? static_cast<int>(threads / shared_units) : 1;

  std::deque<Team> singles, teams;
  for (int i = 0; i < threads; ++i) singles.emplace_back(1);
  for (int64_t i = 0; i < shared_units; ++i) teams.emplace_back(team_size);
  const int64_t own = own_bytes(call.problem);
  const int64_t shared =
      std::max(shared_bytes(call.problem, 1), shared_bytes(call.problem, team_size));
  const Tensor scratch = empty({threads * (own + shared) + kAlignment}, ScalarType::Byte);
  char* memory = aligned(scratch.mutable_data_ptr());
  char* shared_memory = memory + threads * own;

  std::atomic<int64_t> next{0};
  Barrier all(threads);
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    char* mine = memory + begin * own;
    for (int64_t unit; (unit = next.fetch_add(1)) < whole_units;)
      kernel(call, unit, {singles[begin], {0, 1}, shared_memory + begin * shared, mine});
    if (shared_units == 0) return;
    all.wait(static_cast<int>(end - begin));
    for (int64_t i = begin / team_size; i < shared_units && i * team_size < end; ++i) {
      const int64_t first = i * team_size;
      const Members members{static_cast<int>(std::max(begin, first) - first),
                            static_cast<int>(std::min(end, first + team_size) - first)};
      if (members.count() > 0)
        kernel(call, whole_units + i, {teams[i], members, shared_memory + first * shared, mine});
    }
  });
}

}  // namespace seqkern
