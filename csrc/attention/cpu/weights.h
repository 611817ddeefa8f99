// Attention's forward where the weights are wanted, too: they are the probabilities that it has
// made anyway, divided by their sums.
//
// A piece of work is a block of queries of one sequence with some of the heads, so that the mean
// over heads is added up where it is in the cache: as columns, (keys, kQueries) for each tile of
// queries, which become rows once.
#pragma once

#include "attention/cpu/forward.h"

namespace seqkern {
namespace SEQKERN_ISA {

// What one callback works with, beside the forward's own.
template <class T>
struct WeightsScratch {
  using C = typename T::C;
  static constexpr int kStrip = 96;  // keys that become rows at a time

  WeightsScratch(const WeightsCall& call, char* memory) : WeightsScratch(call, Carve(memory)) {}
  WeightsScratch(const WeightsCall& call, Carve carve)
      : kept{{call.forward.problem, carve},
             {tile(call, 1), carve},
             {tile(call, 2), carve},
             {tile(call, 3), carve}} {
    const Problem& p = call.forward.problem;
    rows = carve.template take<C>(kQueries * kStrip);
    scale = carve.template take<C>(kQueries);
    sums =
        carve.template take<C>(call.mean && call.groups == 1 ? call.tiles * p.keys * kQueries : 0);
    forward = carve.template take<char>(ForwardScratch<T>(p, nullptr).bytes);
    bytes = carve.taken();
  }

  KeptTile<T> kept[ForwardScratch<T>::kTiles];
  C *rows, *scale, *sums;
  char* forward;
  int64_t bytes;

 private:
  // The problem, or one without keys where a block has fewer tiles.
  static Problem tile(const WeightsCall& call, int64_t index) {
    Problem p = call.forward.problem;
    if (index >= call.tiles) p.keys = 0;
    return p;
  }
};

template <class T>
class WeightedForward {
 public:
  using S = typename T::Storage;
  using C = typename T::C;
  using V = Vec<C>;

  WeightedForward(const WeightsCall& call, int64_t piece, const Place& place)
      : call_(call),
        p_(call.forward.problem),
        b_(piece / (call.blocks * call.groups)),
        first_(piece / call.groups % call.blocks * call.tiles * kQueries),
        queries_(smaller(call.tiles * kQueries, p_.queries - first_)),
        place_(place),
        scratch_(call, place.own),
        sums_(call.groups == 1
                  ? scratch_.sums
                  : static_cast<C*>(call.sums) + piece * call.tiles * p_.keys * kQueries) {}

  void run(int64_t first_head, int64_t end_head) {
    if (call_.mean) std::memset(sums_, 0, tiles() * p_.keys * kQueries * sizeof(C));
    for (int64_t head = first_head; head < end_head; ++head) {
      const int64_t kv_head = head / (p_.heads / p_.kv_heads);
      const Place place{place_.team, place_.members, place_.shared, scratch_.forward};
      Forward<T>(call_.forward, b_ * p_.kv_heads + kv_head, place)
          .run_kept(head, first_, queries_, scratch_.kept);
      for (int64_t i = 0; i < tiles(); ++i) call_.mean ? add(i) : write(i, head);
    }
    if (call_.mean && call_.groups == 1) write_mean();
  }

  // The mean, from the sums of all groups of heads, which lie one after the other.
  void combine() {
    const int64_t count = tiles() * p_.keys * kQueries, apart = call_.tiles * p_.keys * kQueries;
    for (int64_t group = 1; group < call_.groups; ++group)
      for (int64_t i = 0; i < count; i += V::kLanes)
        store(sums_ + i, load(sums_ + i) + load(sums_ + group * apart + i));
    write_mean();
  }

 private:
  int64_t tiles() const { return ceil_div(queries_, kQueries); }
  int queries_of(int64_t tile) const {
    return static_cast<int>(smaller<int64_t>(kQueries, queries_ - tile * kQueries));
  }

  void add(int64_t i) const {
    const KeptTile<T>& kept = scratch_.kept[i];
    const int vectors = static_cast<int>(ceil_div(queries_of(i), T::kLanes));
    C* const sums = sums_ + i * p_.keys * kQueries;
    for (int s = 0; s < kept.count; ++s)
      for (int64_t j = kept.segments[s].first, end = j + kept.segments[s].keys; j < end; ++j)
        for (int column = 0; column < vectors * T::kLanes; column += T::kLanes) {
          C* const to = sums + j * kQueries + column;
          store(to,
                load(kept.probabilities + j * kQueries + column) * load(kept.factor(s) + column) +
                    load(to));
        }
  }

  void write(int64_t i, int64_t head) const {
    const KeptTile<T>& kept = scratch_.kept[i];
    S* const to = static_cast<S*>(call_.weights) +
                  ((b_ * p_.heads + head) * p_.queries + first_ + i * kQueries) * p_.keys;
    int64_t seen = 0;
    for (int s = 0; s < kept.count; ++s) seen += kept.segments[s].keys;
    if (seen < p_.keys) std::memset(to, 0, queries_of(i) * p_.keys * sizeof(S));
    for (int s = 0; s < kept.count; ++s)
      write_rows(kept.probabilities, kept.factor(s), queries_of(i), kept.segments[s].first,
                 kept.segments[s].keys, to);
  }

  void write_mean() const {
    for (int q = 0; q < kQueries; ++q) scratch_.scale[q] = C(1) / static_cast<C>(p_.heads);
    for (int64_t i = 0; i < tiles(); ++i)
      write_rows(
          sums_ + i * p_.keys * kQueries, scratch_.scale, queries_of(i), 0, p_.keys,
          static_cast<S*>(call_.weights) + (b_ * p_.queries + first_ + i * kQueries) * p_.keys);
  }

  // Columns of the keys [first, first + keys) as rows of `to` (queries, all keys).
  void write_rows(const C* columns, const C* scale, int queries, int64_t first, int64_t keys,
                  S* to) const {
    constexpr int kStrip = WeightsScratch<T>::kStrip;
    for (int64_t key = first, end = first + keys; key < end; key += kStrip)
      rows_from_columns(columns + key * kQueries, scale, queries,
                        smaller<int64_t>(kStrip, end - key), scratch_.rows, to + key, p_.keys);
  }

  const WeightsCall& call_;
  const Problem& p_;
  int64_t b_, first_, queries_;
  const Place& place_;
  WeightsScratch<T> scratch_;
  C* sums_;
};

template <class T>
void weights(const WeightsCall& call, int64_t piece, Place place) {
  const int64_t group = piece % call.groups, heads = call.forward.problem.heads;
  T::begin();
  WeightedForward<T>(call, piece, place)
      .run(group * heads / call.groups, (group + 1) * heads / call.groups);
  T::end();
}

template <class T>
void combine_weights(const WeightsCall& call, int64_t block, Place place) {
  WeightedForward<T>(call, block * call.groups, place).combine();
}

template <class T>
int64_t weights_own(const WeightsCall& call) {
  return WeightsScratch<T>(call, nullptr).bytes;
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
