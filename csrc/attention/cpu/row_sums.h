// The softmax of a query and delta, anew from the backward's own scores.
//
// The backward usually takes the log-sum-exp from the forward and delta = rowsum(dO * O). Both are
// off by what was rounded on the way: O to the storage type, and, where a call was decoded, the
// scores in another order of summation. dP - delta, the difference of nearly equal numbers where
// one key has nearly all the weight, multiplies that. So where it costs little, with the greatest
// score S_m, the sink's part P_s of the softmax, and rowsum(dO * O) as a mere reference r,
//
//   Z = sum_j exp(S_j - S_m)       P_j = exp(S_j - S_m) / Z       dP'_j = dP_j - r
//   dS_j = P_j (dP'_j - delta'),   delta' = sum_j P_j dP'_j - P_s r - grad_lse
//
// of the very numbers that the gradients are made of: whatever a score has lost, P sums to one and
// dS to nothing, and what cancels is small from the start.
#pragma once

#include "attention/cpu/exp2.h"
#include "attention/cpu/rules.h"
#include "attention/cpu/tile_rows.h"

namespace seqkern {
namespace SEQKERN_ISA {

// For kQueries queries, over the keys so far.
template <class C>
struct RowSums {
  static constexpr int64_t kCount = 3 * kQueries;

  explicit RowSums(C* memory)
      : maximum(memory), total(memory + kQueries), weighted(memory + 2 * kQueries) {}

  void clear() const {
    for (int q = 0; q < kQueries; ++q) maximum[q] = kLeastExponent<C>, total[q] = weighted[q] = 0;
  }

  C* maximum;   // of the scores, in units of log2
  C* total;     // of exp(score - maximum)
  C* weighted;  // of exp(score - maximum) * dP'
};

// dP as dropout leaves it: `kept` times as much where bit `column` of keep is set. keep: null
// without dropout.
template <class C>
inline Vec<C> dropped(Vec<C> dp, const uint64_t* keep, int key, int column, Vec<C> kept) {
  return keep ? where_bits(keep[key] >> column, dp * kept, C(0)) : dp;
}

// The exponent of a score: nothing above 0 and exactly 0 for the maximum where they are huge.
template <class C>
inline Vec<C> below_maximum(Vec<C> score, Vec<C> factor, Vec<C> maximum, bool huge) {
  if (!huge) return score * factor - maximum;
  const Vec<C> x = rounded(score * factor) - maximum;
  const typename Vec<C>::raw zero = {};
  return Vec<C>(typename Vec<C>::raw(x.v > zero ? zero : x.v));
}

// Adds a tile of scores and dP, both (keys, kQueries), and leaves exp(score - maximum) and dP' in
// their place. A score of minus infinity stays one and does not count, whatever dP is.
template <class T>
__attribute__((noinline)) void add_row_sums(typename T::C* scores, typename T::C* grad, int keys,
                                            int vectors, const Factors<typename T::C>& factors,
                                            const uint64_t* keep, typename T::C kept_scale,
                                            const typename T::C* references,
                                            const RowSums<typename T::C>& sums) {
  using C = typename T::C;
  using V = Vec<C>;
  constexpr int kChains = 4;  // of additions
  const V factor(factors.log2), kept(kept_scale), minus_infinity(-kInfinity<C>);
  const typename V::raw zero = {};
  for (int v = 0; v < vectors; ++v) {
    const int column = v * T::kLanes;
    const V reference = load(references + column);
    V most[2] = {minus_infinity, minus_infinity};
    for (int j = 0; j < keys; ++j)
      most[j % 2] = greater(load(scores + j * kQueries + column), most[j % 2]);
    const V before = load(sums.maximum + column);
    const V now = rounded(greater(most[0], most[1]) * factor);
    const V maximum(typename V::raw(now.v <= before.v ? before.v : now.v));  // a NaN, too
    const V shrinks = exp2_(before - maximum);
    const bool huge = any_huge(maximum);
    V total[kChains], weighted[kChains];
    for (int i = 0; i < kChains; ++i) total[i] = weighted[i] = V(zero);
    for (int j = 0; j < keys; ++j) {
      C *const s = scores + j * kQueries + column, *const g = grad + j * kQueries + column;
      const V score = load(s);
      const auto excluded = score.v == minus_infinity.v;
      const V power = T::exp2(below_maximum(score, factor, maximum, huge));
      const V dp = dropped(load(g), keep, j, column, kept) - reference, product = power * dp;
      total[j % kChains] += V(typename V::raw(excluded ? zero : power.v));
      weighted[j % kChains] += V(typename V::raw(excluded ? zero : product.v));
      store(s, V(typename V::raw(excluded ? score.v : power.v)));
      store(g, dp);
    }
    store(sums.maximum + column, maximum);
    store(sums.total + column,
          load(sums.total + column) * shrinks + ((total[0] + total[1]) + (total[2] + total[3])));
    store(sums.weighted + column, load(sums.weighted + column) * shrinks +
                                      ((weighted[0] + weighted[1]) + (weighted[2] + weighted[3])));
  }
}

// Where there is no reference yet: makes delta one, of a tile that holds all keys and to which
// add_row_sums() was applied, and takes it off dP' and the sums. A sink is not among the keys.
template <class T>
__attribute__((noinline)) void recenter_row_sums(const typename T::C* powers, typename T::C* grad,
                                                 int keys, int vectors, typename T::C* references,
                                                 const RowSums<typename T::C>& sums) {
  using C = typename T::C;
  using V = Vec<C>;
  const V minus_infinity(-kInfinity<C>);
  const typename V::raw zero = {};
  for (int v = 0; v < vectors; ++v) {
    const int column = v * T::kLanes;
    const V total = load(sums.total + column), mean = load(sums.weighted + column) / total;
    const V reference(typename V::raw(total.v == zero ? zero : mean.v));
    V weighted[2] = {V(zero), V(zero)};
    for (int j = 0; j < keys; ++j) {
      C* const g = grad + j * kQueries + column;
      const V power = load(powers + j * kQueries + column), dp = load(g) - reference;
      const V product = power * dp;
      weighted[j % 2] += V(typename V::raw(power.v == minus_infinity.v ? zero : product.v));
      store(g, dp);
    }
    store(references + column, reference);
    store(sums.weighted + column, weighted[0] + weighted[1]);
  }
}

// Adds the sums over other keys.
template <class C>
void merge_row_sums(const RowSums<C>& sums, const RowSums<C>& others) {
  using V = Vec<C>;
  for (int column = 0; column < kQueries; column += V::kLanes) {
    const V mine = load(sums.maximum + column), theirs = load(others.maximum + column);
    const V most(typename V::raw(theirs.v <= mine.v ? mine.v : theirs.v));
    const V a = exp2_(mine - most), b = exp2_(theirs - most);
    store(sums.maximum + column, most);
    store(sums.total + column, load(sums.total + column) * a + load(others.total + column) * b);
    store(sums.weighted + column,
          load(sums.weighted + column) * a + load(others.weighted + column) * b);
  }
}

// From the sums over all keys the maximum, 1 / Z with the sink in Z, and delta', which holds minus
// the gradient of the log-sum-exp before. sink: a logit in natural units that takes part in the
// softmax, or null.
template <class C>
void finish_row_sums(const RowSums<C>& sums, const C* sink, const C* references, C* maximum,
                     C* inverse, C* delta) {
  using V = Vec<C>;
  const typename V::raw zero = {};
  for (int column = 0; column < kQueries; column += V::kLanes) {
    const V most = load(sums.maximum + column);
    V total = load(sums.total + column), scale(C(1)), of_sink(zero);
    if (sink) {
      const V logit(*sink * static_cast<C>(kLog2e)), greatest = greater(logit, most);
      scale = exp2_(most - greatest);
      of_sink = exp2_(logit - greatest);
      total = total * scale + of_sink;
    }
    const auto empty = total.v == zero;
    const V quotient = scale / total, share = of_sink / total;
    const V factor(typename V::raw(empty ? zero : quotient.v));
    V d = load(sums.weighted + column) * factor + load(delta + column);
    if (sink) d = d - V(typename V::raw(empty ? zero : share.v)) * load(references + column);
    store(maximum + column, most);
    store(inverse + column, factor);
    store(delta + column, d);
  }
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
