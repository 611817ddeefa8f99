// How the units of a call are spread over threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <numeric>
#include <vector>

#include "attention/cpu/kernels.h"
#include "common/ceil_div.h"
#include "common/scratch.h"

namespace seqkern {

// How many threads a call of so many multiplications is worth.
inline int threads_for(double work) {
  constexpr double kWorthAThread = 2e5;
  if (work < 2 * kWorthAThread) return 1;
  return static_cast<int>(std::min<double>(torch::stable::get_num_threads(), work / kWorthAThread));
}

// In which order the units are worked on, and by how many threads each.
struct Plan {
  std::vector<int64_t> order;
  int64_t together;  // so many first ones are worked on by all threads, one unit after the other
  int64_t whole;     // so many next ones by one thread each; the rest by teams
};

// How many pairs of query and key a sequence has at most.
inline double pairs_of(const Problem& p, int64_t b) {
  const Extent extent = extent_of(p, b);
  const Band band = band_of(p, extent);
  const int64_t keys = std::min(extent.keys, std::max<int64_t>(0, band.high - band.low + 1));
  return static_cast<double>(extent.queries) * static_cast<double>(keys);
}

// While there are at least as many units as threads, each thread takes whole units; what is left is
// worked on by teams, so that one head still uses every thread. Packed sequences may be of very
// different lengths: the long ones come first, and all threads share what would otherwise be more
// than one thread's part.
inline Plan plan_of(const Problem& p, int64_t units, int threads) {
  Plan plan{std::vector<int64_t>(static_cast<size_t>(units)), 0, 0};
  std::iota(plan.order.begin(), plan.order.end(), int64_t(0));
  if (p.packed() && threads > 1) {  // here a unit is one head of one sequence
    std::vector<double> pairs;
    double rest = 0;
    for (int64_t unit = 0; unit < units; ++unit) {
      pairs.push_back(pairs_of(p, unit / p.kv_heads));
      rest += pairs.back();
    }
    const auto work = [&](int64_t unit) { return pairs[static_cast<size_t>(unit)]; };
    std::stable_sort(plan.order.begin(), plan.order.end(),
                     [&](int64_t a, int64_t b) { return work(a) > work(b); });
    for (int64_t unit : plan.order) {
      if (work(unit) * threads <= rest) break;
      rest -= work(unit);
      ++plan.together;
    }
  }
  const int64_t others = units - plan.together;
  plan.whole = others - others % threads;
  return plan;
}

// Runs `kernel(call, unit, place)` for every unit. `work` is the call's number of multiplications:
// little work is not worth a second thread.
template <class Call>
void run_units(void (*kernel)(const Call&, int64_t, Place), const Call& call, int64_t units,
               double work, int64_t (*shared_bytes)(const Problem&, int),
               int64_t (*own_bytes)(const Problem&)) {
  if (units == 0) return;
  const int threads = threads_for(work);
  const int64_t own = own_bytes(call.problem), alone = shared_bytes(call.problem, 1);
  if (threads == 1) {
    const Scratch scratch(own + alone);
    Team team(1);
    for (int64_t unit = 0; unit < units; ++unit)
      kernel(call, unit, {team, {0, 1}, scratch.data() + own, scratch.data()});
    return;
  }
  const Plan plan = plan_of(call.problem, units, threads);
  const int64_t first_shared = plan.together + plan.whole, shared_units = units - first_shared;
  const int team_size = shared_units ? static_cast<int>(threads / shared_units) : 1;

  Team everyone(threads);
  std::deque<Team> singles, teams;
  for (int i = 0; i < threads; ++i) singles.emplace_back(1);
  for (int64_t i = 0; i < shared_units; ++i) teams.emplace_back(team_size);
  const int64_t shared = std::max(alone, shared_bytes(call.problem, team_size));
  const int64_t all_shared =
      std::max(threads * shared, plan.together ? shared_bytes(call.problem, threads) : 0);
  const Scratch scratch(threads * own + all_shared);
  char* memory = scratch.data();
  char* shared_memory = memory + threads * own;

  std::atomic<int64_t> next{plan.together};
  Barrier all(threads);
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    char* mine = memory + begin * own;
    const Members us{static_cast<int>(begin), static_cast<int>(end)};
    for (int64_t i = 0; i < plan.together; ++i) {
      kernel(call, plan.order[i], {everyone, us, shared_memory, mine});
      all.wait(us.count());  // before the team's memory is used again
    }
    for (int64_t i; (i = next.fetch_add(1)) < first_shared;)
      kernel(call, plan.order[i], {singles[begin], {0, 1}, shared_memory + begin * shared, mine});
    if (shared_units == 0) return;
    all.wait(us.count());
    for (int64_t i = begin / team_size; i < shared_units && i * team_size < end; ++i) {
      const int64_t first = i * team_size;
      const Members members{static_cast<int>(std::max(begin, first) - first),
                            static_cast<int>(std::min(end, first + team_size) - first)};
      if (members.count() > 0)
        kernel(call, plan.order[first_shared + i],
               {teams[i], members, shared_memory + first * shared, mine});
    }
  });
}

// Runs `piece(index, place)` for pieces that one thread each works on.
template <class Piece>
void run_pieces(int threads, int64_t pieces, int64_t own, int64_t shared, const Piece& piece) {
  threads = static_cast<int>(std::min<int64_t>(threads, pieces));
  if (threads == 0) return;
  const Scratch scratch(threads * (own + shared));
  std::atomic<int64_t> next{0};
  const auto work = [&](int64_t begin, int64_t) {
    char* const mine = scratch.data() + begin * (own + shared);
    Team team(1);
    for (int64_t i; (i = next.fetch_add(1)) < pieces;)
      piece(i, Place{team, {0, 1}, mine + own, mine});
  };
  if (threads == 1)
    work(0, 1);
  else
    torch::stable::parallel_for(0, threads, 1, work);
}

}  // namespace seqkern
