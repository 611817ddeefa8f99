// Attention's backward: the probabilities are computed again, tile by tile, from the saved
// log-sum-exp (Dao et al. 2022, algorithm 4).
//
//   P = exp(S - lse)    dP = dO V^T    dS = P * (dP - delta),  delta = rowsum(dO * O) - grad_lse
//   dV = P^T dO         dK = scale * dS^T Q                    dQ = scale * dS K
//
// Queries are worked on in blocks of tiles. A team's member owns every members-th tile of keys; in
// round r of a block it works with every members-th tile of queries from the (member + r)-th on. So
// in a round no two members add to the same dQ, dK or dV, and the order of every sum is fixed by
// the size of the team.
//
// The lse and delta above are the forward's, unless few queries or few keys make it cheap to have
// them better: see row_sums.h.
#pragma once

#include "attention/cpu/backward_operands.h"
#include "attention/cpu/exp2.h"
#include "attention/cpu/wide_scores.h"

namespace seqkern {
namespace SEQKERN_ISA {

// What one callback works with.
template <class T>
struct BackwardScratch {
  using C = typename T::C;

  BackwardScratch(const Problem& p, char* memory) : BackwardScratch(p, Carve(memory)) {}
  BackwardScratch(const Problem& p, Carve carve) : keys(p, carve) {
    constexpr int64_t kTile = T::kGradientKeys * kQueries;
    scores = carve.template take<C>(kTile);
    grad = carve.template take<C>(kTile);
    slope = carve.template take<C>(p.softcap != 0 ? kTile : 0);
    bias = carve.template take<C>(p.bias.data ? kTile : 0);
    gradients = carve.template take<char>(T::gradient_bytes());
    rows = carve.template take<C>(kQueries * larger(p.dim, p.value_dim));
    row_sums = carve.template take<C>(RowSums<C>::kCount);
    if constexpr (__is_same(typename T::Storage, float))
      wide = carve.template take<double>(wide_scores_count(larger(p.dim, p.value_dim)));
    allowed = carve.template take<uint64_t>(T::kGradientKeys);
    keep = carve.template take<uint64_t>(T::kGradientKeys + 3);
    bytes = carve.taken();
  }

  KeyTileMemory<T> keys;
  C *scores, *grad, *slope, *bias, *rows, *row_sums;
  double* wide = nullptr;
  char* gradients;
  uint64_t *allowed, *keep;
  int64_t bytes;
};

template <class T>
class Backward {
 public:
  using S = typename T::Storage;
  using C = typename T::C;
  using V = Vec<C>;
  using Operands = BackwardOperands<T>;

  Backward(const BackwardCall& call, int64_t b, int64_t kv_head, const Place& place)
      : call_(call),
        p_(call.problem),
        b_(b),
        kv_head_(kv_head),
        group_(p_.heads / p_.kv_heads),
        extent_(extent_of(p_, b)),
        place_(place),
        scratch_(p_, place.own),
        sums_(call.lse ? sums_of(extent_) : Sums::kTile),
        writes_grad_query_(T::kInPlace && extent_.keys <= T::kGradientKeys &&
                           p_.dim % T::kLanes == 0),
        operands_(
            call, b, kv_head, extent_,
            {sums_ != Sums::kForward, writes_grad_query_, multiplies_rows(), writes_grad_keys()},
            place) {}

  void run() {
    Barrier& barrier = place_.team.barrier;
    operands_.prepare();
    const int members = place_.team.members;
    const int64_t tiles = operands_.tiles(), block = operands_.block_tiles();
    for (int64_t first = 0; first < tiles; first += block) {
      const int64_t end = smaller(first + block, tiles);
      operands_.take_block(first);
      if (sums_ == Sums::kFirstPass) sum_rows(first, end);
      for (int round = 0; round < members; ++round) {
        for (int m = place_.members.begin; m < place_.members.end; ++m)
          run_round(m, first, end, (m + round) % members);
        barrier.wait(place_.members.count());
      }
      if (call_.grad_query.data && !writes_grad_query_) write_grad_query(first, end);
      barrier.wait(place_.members.count());
    }
    if (!writes_grad_keys()) write_grad_key_and_value();
    if (call_.grad_slopes && place_.members.begin == 0) write_grad_slopes();
    barrier.wait(place_.members.count());
  }

 private:
  // Where softmax and delta come from: the forward; a pass over the keys before the others; or,
  // where one tile holds all keys, the tile itself.
  enum class Sums { kForward, kFirstPass, kTile };

  // A decoded call has summed its scores in another order. Where storage is narrower than the
  // compute type, the output was rounded: small sequences can afford the tenth that a tile's sums
  // cost.
  static Sums sums_of(const Extent& extent) {
    const bool small = extent.queries <= kSmallSequence && extent.keys <= kSmallSequence;
    const bool few = are_few(extent), rounds = !__is_same(S, C);
    if ((few && extent.keys <= T::kGradientKeys) || (small && rounds)) return Sums::kTile;
    return few ? Sums::kFirstPass : Sums::kForward;
  }
  static bool are_few(const Extent& extent) { return extent.queries <= kMostDecodedQueries; }

  // Whether each key meets a single tile of queries, whose part of dK and dV is all of them.
  bool writes_grad_keys() const {
    return T::kInPlace && group_ == 1 && extent_.queries <= kQueries && p_.dim % T::kLanes == 0 &&
           p_.value_dim % T::kLanes == 0;
  }

  // The softmax and delta of the tiles [first, end), by all keys; the team meets at its end.
  void sum_rows(int64_t first, int64_t end) {
    Barrier& barrier = place_.team.barrier;
    const int members = place_.team.members;
    const int64_t key_tiles = ceil_div(extent_.keys, T::kGradientKeys);
    for (int m = place_.members.begin; m < place_.members.end; ++m) {
      for (int64_t i = first; i < end; ++i) operands_.row_sums(m, i).clear();
      for (int64_t j = m; j < key_tiles; j += members) {
        const int64_t first_key = j * T::kGradientKeys;
        const int64_t end_key = smaller<int64_t>(extent_.keys, first_key + T::kGradientKeys);
        const KeyTile<T> keys =
            operands_.key_tile(first_key, end_key, Operands::kScores, scratch_.keys);
        for (int64_t i = first; i < end; ++i) {
          const GradientTile<T> tile = operands_.tile(i);
          const Rules<S> rules(p_, b_, tile.head, extent_);
          Pairs pairs;
          if (!take_pairs(rules, tile, first_key, end_key, pairs)) continue;
          take_scores(rules, tile, keys, nullptr, pairs);
          if (Operands::keeps_scores(p_)) copy_scores<true>(i, pairs);
          add_sums(rules, tile, pairs, operands_.row_sums(m, i));
        }
      }
    }
    barrier.wait(place_.members.count());
    share(place_, end - first, 1, [&](int64_t from, int64_t to) {
      for (int64_t i = first + from; i < first + to; ++i) {
        const RowSums<C> sums = operands_.row_sums(0, i);
        for (int m = 1; m < members; ++m) merge_row_sums(sums, operands_.row_sums(m, i));
        operands_.finish_rows(i, sums);
      }
    });
    barrier.wait(place_.members.count());
  }

  // The member's keys with those query tiles of [first, end) that leave the rest `residue` when
  // counted from the first.
  void run_round(int member, int64_t first, int64_t end, int residue) {
    const int members = place_.team.members;
    const int64_t key_tiles = ceil_div(extent_.keys, T::kGradientKeys);
    const int64_t of_head = operands_.tiles_of_head();
    for (int64_t g = first / of_head; g * of_head < end; ++g) {
      const int64_t head = kv_head_ * group_ + g;
      const Rules<S> rules(p_, b_, head, extent_);
      double slope_sum = 0;
      for (int64_t j = member; j < key_tiles; j += members) {
        const int64_t first_key = j * T::kGradientKeys;
        const int64_t end_key = smaller<int64_t>(extent_.keys, first_key + T::kGradientKeys);
        const Range range = rules.queries_for(first_key, end_key);
        if (range.begin >= range.end) continue;
        const int64_t last = smaller(end, g * of_head + ceil_div(range.end, kQueries));
        int64_t i = larger(first, g * of_head + range.begin / kQueries);
        i += (residue + members - (i - first) % members) % members;
        if (i >= last) continue;
        const int use = Operands::kGradQuery | (has_scores() ? 0 : Operands::kScores);
        const KeyTile<T> keys = operands_.key_tile(first_key, end_key, use, scratch_.keys);
        for (; i < last; i += members) run_tile(rules, i, keys, first_key, end_key, slope_sum);
      }
      if (call_.grad_slopes) operands_.slope_sum(member, g) += slope_sum;
    }
  }

  // The pairs of a tile of queries and a tile of keys that count.
  struct Pairs {
    Rectangle r;
    int first_in_tile, vectors;
    Tile kind;
    const uint64_t* keep;  // of dropout; null without
  };

  // False if there is nothing to look at.
  __attribute__((noinline)) bool take_pairs(const Rules<S>& rules, const GradientTile<T>& tile,
                                            int64_t first_key, int64_t end, Pairs& pairs) {
    // Of the keys only those that some query of the tile may see.
    const Range seen = rules.keys_for(tile.first, tile.first + tile.queries);
    const int64_t begin = larger(first_key, seen.begin / T::kKeyStep * T::kKeyStep);
    end = smaller(end, seen.end);
    if (begin >= end) return false;
    const Rectangle r{tile.first, tile.queries, begin, static_cast<int>(end - begin)};
    const int vectors = static_cast<int>(ceil_div(tile.queries, T::kLanes));
    const Tile kind = rules.classify(r, scratch_.allowed);
    if (kind == Tile::kSkip) return false;
    const uint64_t* keep = nullptr;
    if (p_.dropout.probability > 0)
      keep = keep_bits(p_.dropout, static_cast<uint32_t>(b_ * p_.heads + tile.head), r.first_query,
                       r.queries, r.first_key, r.keys, scratch_.keep);
    pairs = {r, static_cast<int>(begin - first_key), vectors, kind, keep};
    return true;
  }

  // Fills scores, dP and, where it is not null, softcap's derivative.
  __attribute__((noinline)) void take_scores(const Rules<S>& rules, const GradientTile<T>& tile,
                                             const KeyTile<T>& key_tile, C* slope,
                                             const Pairs& pairs) {
    const auto& [r, in_tile, vectors, kind, keep] = pairs;
    C *scores = scratch_.scores, *grad = scratch_.grad;
    multiply(key_tile.key, in_tile, r.keys, p_.dim, tile, tile.query, tile.query_rows, vectors,
             scores);
    if (rules.transforms()) rules.transform(r, vectors, scores, scratch_.bias, slope);
    if (kind == Tile::kMixed) Rules<S>::exclude(scratch_.allowed, r.keys, vectors, scores);
    multiply(key_tile.value, in_tile, r.keys, p_.value_dim, tile, tile.grad_output,
             tile.grad_output_rows, vectors, grad);
  }

  // Whether scores and dP of the first pass were kept.
  bool has_scores() const { return sums_ == Sums::kFirstPass && Operands::keeps_scores(p_); }

  // Keeps scores and dP of tile i, or takes what was kept.
  template <bool kKeeps>
  void copy_scores(int64_t i, const Pairs& pairs) {
    for (int j = 0; j < pairs.r.keys; ++j) {
      C* const kept = operands_.kept_scores(i, pairs.r.first_key + j);
      copy_row<kKeeps>(scratch_.scores + j * kQueries, kept, pairs.vectors);
      copy_row<kKeeps>(scratch_.grad + j * kQueries, kept + Operands::kFewColumns, pairs.vectors);
    }
  }
  template <bool kKeeps>
  static void copy_row(C* row, C* kept, int vectors) {
    for (int column = 0; column < vectors * T::kLanes; column += T::kLanes)
      if (kKeeps)
        store(kept + column, load(row + column));
      else
        store(row + column, load(kept + column));
  }

  // Whether scores are products of rows, for which no query is transposed.
  bool multiplies_rows() const {
    return __is_same(S, float) && are_few(extent_) && extent_.keys <= kMostDotKeys;
  }

  // out (keys, kQueries) = rows [first, first + keys) x right, for so many vectors of queries;
  // right_rows: its transpose.
  void multiply(const typename T::Left& rows, int first, int keys, int64_t depth,
                const GradientTile<T>& tile, const char* right, const typename T::Right& right_rows,
                int vectors, C* out) {
    if constexpr (__is_same(S, float)) {
      if (multiplies_rows()) {
        wide_dots(rows.data + first * rows.stride, rows.stride, keys, depth, right_rows.data,
                  right_rows.stride, tile.queries, vectors * T::kLanes, out);
        return;
      }
      if (are_few(extent_)) {
        const float* queries = reinterpret_cast<const float*>(right);
        wide_scores(rows.data + first * rows.stride, rows.stride, keys, depth, queries,
                    vectors * T::kLanes, scratch_.wide, out);
        return;
      }
    }
    T::scores(rows, first, keys, depth, right, 0, vectors, out);
  }

  // What dropout multiplies the probabilities with that it keeps.
  C kept_scale() const {
    const double probability = p_.dropout.probability;
    return static_cast<C>(probability < 1 ? 1 / (1 - probability) : 0);
  }

  void add_sums(const Rules<S>& rules, const GradientTile<T>& tile, const Pairs& pairs,
                const RowSums<C>& sums) {
    add_row_sums<T>(scratch_.scores, scratch_.grad, pairs.r.keys, pairs.vectors, rules.factors(),
                    pairs.keep, kept_scale(), tile.reference, sums);
  }

  void run_tile(const Rules<S>& rules, int64_t i, const KeyTile<T>& key_tile, int64_t first_key,
                int64_t end, double& slope_sum) {
    const GradientTile<T> tile = operands_.tile(i);
    Pairs pairs;
    if (!take_pairs(rules, tile, first_key, end, pairs)) return;
    if (has_scores())
      copy_scores<false>(i, pairs);
    else
      take_scores(rules, tile, key_tile, p_.softcap != 0 ? scratch_.slope : nullptr, pairs);
    const auto& [r, in_tile, vectors, kind, keep] = pairs;
    if (sums_ == Sums::kTile) {
      const RowSums<C> sums(scratch_.row_sums);
      sums.clear();
      add_sums(rules, tile, pairs, sums);
      if (!call_.lse)
        recenter_row_sums<T>(scratch_.scores, scratch_.grad, r.keys, vectors, tile.reference, sums);
      operands_.finish_rows(i, sums);
    }
    const int64_t begin = r.first_key;
    const int keys = r.keys;
    C *scores = scratch_.scores, *grad = scratch_.grad;
    const auto gradients = T::gradients(scores, grad, scratch_.gradients);
    const bool excludes = kind == Tile::kMixed || rules.has_bias() || sums_ == Sums::kTile;
    differentiate(rules, r, tile, keep, excludes, gradients, slope_sum);

    const bool adds = !writes_grad_keys();
    if (call_.grad_value.data)
      T::multiply_p(gradients, keys, tile.queries, tile.grad_output_rows, p_.value_dim,
                    operands_.grad_value(begin), operands_.grad_value_stride(), adds);
    if (call_.grad_key.data) {
      C* const rows = operands_.grad_key(begin);
      const int64_t stride = operands_.grad_key_stride();
      T::multiply_ds(gradients, keys, tile.queries, tile.query_rows, p_.dim, rows, stride, adds);
      if constexpr (T::kInPlace) {
        if (!adds) write_rows(rows, stride, keys, p_.dim, static_cast<C>(p_.scale), rows, stride);
      }
    }
    if (call_.grad_query.data && writes_grad_query_) {
      write_grad_query_rows(rules, tile, key_tile, pairs, T::ds_probability(gradients));
    } else if (call_.grad_query.data) {
      T::accumulate(key_tile.key_transposed, in_tile, keys, p_.dim, T::ds_probability(gradients),
                    vectors, tile.grad_query, true);
      if (operands_.has_non_finite())
        operands_.add_non_finite(r, kind == Tile::kMixed ? scratch_.allowed : nullptr, rules,
                                 T::ds_probability(gradients), tile.grad_query, kColumns);
    }
  }

  // Scores, or the exponentials that add_row_sums() left, to P, and grad P to dS. excludes: a score
  // may be minus infinity, and then P and dS are 0 whatever dP is.
  __attribute__((noinline)) void differentiate(const Rules<S>& rules, const Rectangle& r,
                                               const GradientTile<T>& tile, const uint64_t* keep,
                                               bool excludes,
                                               const typename T::Gradients& gradients,
                                               double& slope_sum) {
    const Factors<C> factors = rules.factors();
    const V factor(factors.log2), minus_infinity(-kInfinity<C>);
    const typename V::raw zero = {};
    const V kept(kept_scale());
    const bool plain = !call_.grad_bias.data && !call_.grad_slopes && p_.softcap == 0;
    const int padded = static_cast<int>(round_up(r.keys, T::kRowStep));
    const int vectors = static_cast<int>(ceil_div(r.queries, T::kLanes));
    const int padded_vectors =
        static_cast<int>(ceil_div(round_up(r.queries, T::kQueryStep), T::kLanes));
    for (int v = 0; v < vectors; ++v) {
      const int column = v * T::kLanes;
      const V lse = load(tile.lse + column), delta = load(tile.delta + column);
      V inverse, reference;
      if (sums_ != Sums::kForward)
        inverse = load(tile.inverse + column), reference = load(tile.reference + column);
      const bool huge = any_huge(lse);
      const bool partial = column + T::kLanes > r.queries;
      const uint64_t lanes = partial ? (uint64_t(1) << (r.queries - column)) - 1 : 0;
      for (int j = 0; j < padded; j += 2) {
        V p[2], ds[2];
        for (int i = 0; i < 2; ++i) {
          if (j + i >= r.keys) {
            p[i] = ds[i] = V(zero);
            continue;
          }
          const int64_t at = (j + i) * kQueries + column;
          const V score = load(scratch_.scores + at);
          V dp = load(scratch_.grad + at);
          if (sums_ == Sums::kTile) {
            p[i] = score * inverse;
          } else if (sums_ == Sums::kFirstPass) {
            dp = dropped(dp, keep, j + i, column, kept) - reference;
            p[i] = T::exp2(below_maximum(score, factor, lse, huge)) * inverse;
          } else {
            dp = dropped(dp, keep, j + i, column, kept);
            p[i] = huge ? huge_probability(score, factors, tile, column)
                        : T::exp2(score * factor - lse);
          }
          ds[i] = p[i] * (dp - delta);
          p[i] = dropped(p[i], keep, j + i, column, kept);
          if (excludes) {
            // Whatever dP, the log-sum-exp or softcap's derivative are: they may hold a NaN.
            const auto excluded = score.v == minus_infinity.v;
            p[i] = V(typename V::raw(excluded ? zero : p[i].v));
            ds[i] = V(typename V::raw(excluded ? zero : ds[i].v));
            if (p_.softcap != 0) {
              C* slope = scratch_.slope + at;
              store(slope, V(typename V::raw(excluded ? zero : load(slope).v)));
            }
          }
          if (partial) {
            p[i] = where_bits(lanes, p[i], C(0));
            ds[i] = where_bits(lanes, ds[i], C(0));
          }
          if (!plain) store(scratch_.grad + at, ds[i]);
        }
        T::store_p(gradients, j, column, p[0], p[1]);
        if (plain) T::store_ds(gradients, j, column, ds[0], ds[1]);
      }
    }
    if (!plain) {
      if (call_.grad_bias.data) add_grad_bias(r, tile.head);
      if (call_.grad_slopes) slope_sum += slope_gradient(rules, r);
      for (int v = 0; v < vectors; ++v)
        for (int j = 0; j < padded; j += 2) {
          V ds[2];
          for (int i = 0; i < 2; ++i) {
            const int64_t at = (j + i) * kQueries + v * T::kLanes;
            ds[i] = V(zero);
            if (j + i < r.keys) ds[i] = load(scratch_.grad + at);
            if (j + i < r.keys && p_.softcap != 0) ds[i] = ds[i] * load(scratch_.slope + at);
          }
          T::store_ds(gradients, j, v * T::kLanes, ds[0], ds[1]);
        }
    }
    for (int v = vectors; v < padded_vectors; ++v)
      for (int j = 0; j < padded; j += 2) {
        T::store_p(gradients, j, v * T::kLanes, V(zero), V(zero));
        T::store_ds(gradients, j, v * T::kLanes, V(zero), V(zero));
      }
  }

  // Where the exponents are huge, in the units in which the log-sum-exp was saved: so the greatest
  // score has the exponent 0.
  static V huge_probability(V score, const Factors<C>& factors, const GradientTile<T>& tile,
                            int column) {
    const V natural = rounded(score * V(factors.natural));
    const typename V::raw zero = {};
    const V x = natural - load(tile.natural_lse + column);
    return T::exp2(V(typename V::raw(x.v > zero ? zero : x.v)) * V(static_cast<C>(kLog2e)));
  }

  void add_grad_bias(const Rectangle& r, int64_t head) {
    const Scores& g = call_.grad_bias;
    C* to = static_cast<C*>(const_cast<void*>(g.data)) + b_ * g.batch + head * g.head +
            r.first_query * g.query + r.first_key * g.key;
    if (g.key == 0) return add_key_sums(r, to, g.query);
    for (int q = 0; q < r.queries; ++q, to += g.query)
      for (int j = 0; j < r.keys; ++j) to[j] += scratch_.grad[j * kQueries + q];
  }

  // Sums over the tile's keys, for a bias that is the same for all keys.
  void add_key_sums(const Rectangle& r, C* to, int64_t stride) const {
    for (int column = 0; column < r.queries; column += T::kLanes) {
      V total(C(0));
      for (int j = 0; j < r.keys; ++j) total += load(scratch_.grad + j * kQueries + column);
      C sums[T::kLanes];
      store(sums, total);
      const int queries = smaller(T::kLanes, r.queries - column);
      for (int q = 0; q < queries; ++q) to[(column + q) * stride] += sums[q];
    }
  }

  double slope_gradient(const Rules<S>& rules, const Rectangle& r) const {
    double total = 0;
    for (int j = 0; j < r.keys; ++j)
      for (int q = 0; q < r.queries; ++q)
        total += static_cast<double>(scratch_.grad[j * kQueries + q]) *
                 rules.slope_derivative(r.first_query + q, r.first_key + j);
    return total;
  }

  // dQ = dS K as rows, where one tile holds all keys: nothing has to be transposed back.
  void write_grad_query_rows(const Rules<S>& rules, const GradientTile<T>& tile,
                             const KeyTile<T>& key_tile, const Pairs& pairs,
                             const typename T::Probability* ds) {
    if constexpr (T::kInPlace) {
      const Rectangle& r = pairs.r;
      const auto& keys = key_tile.key_transposed;
      const int64_t stride = call_.grad_query.row;
      S* const rows = rows_of<S>(call_.grad_query, b_, tile.head, extent_.first_query + tile.first);
      product<true>(tile.queries, ds, kQueries, r.keys,
                    keys.data + pairs.first_in_tile * keys.stride, keys.stride,
                    static_cast<int>(p_.dim / T::kLanes), rows, stride, false);
      if (operands_.has_non_finite())
        operands_.add_non_finite(r, pairs.kind == Tile::kMixed ? scratch_.allowed : nullptr, rules,
                                 ds, rows, {1, stride});
      write_rows(rows, stride, tile.queries, p_.dim, static_cast<C>(p_.scale), rows, stride);
    }
  }

  // Of the tiles [first, end).
  void write_grad_query(int64_t first, int64_t end) {
    C scale[kQueries];
    for (int q = 0; q < kQueries; ++q) scale[q] = static_cast<C>(p_.scale);
    share(place_, end - first, 1, [&](int64_t from, int64_t to) {
      for (int64_t i = first + from; i < first + to; ++i) {
        const GradientTile<T> tile = operands_.tile(i);
        S* rows = rows_of<S>(call_.grad_query, b_, tile.head, extent_.first_query + tile.first);
        T::store_rows(tile.grad_query, scale, tile.queries, p_.dim, scratch_.rows, rows,
                      call_.grad_query.row);
      }
    });
  }

  void write_grad_key_and_value() {
    share(place_, extent_.keys, 1, [&](int64_t begin, int64_t end) {
      if (call_.grad_key.data)
        write_rows(operands_.grad_key(begin), operands_.grad_key_stride(), end - begin, p_.dim,
                   static_cast<C>(p_.scale),
                   rows_of<S>(call_.grad_key, b_, kv_head_, extent_.first_key + begin),
                   call_.grad_key.row);
      if (call_.grad_value.data)
        write_rows(operands_.grad_value(begin), operands_.grad_value_stride(), end - begin,
                   p_.value_dim, C(1),
                   rows_of<S>(call_.grad_value, b_, kv_head_, extent_.first_key + begin),
                   call_.grad_value.row);
    });
  }

  void write_grad_slopes() {
    for (int64_t g = 0; g < group_; ++g) {
      double total = 0;
      for (int m = 0; m < place_.team.members; ++m) total += operands_.slope_sum(m, g);
      static_cast<C*>(call_.grad_slopes)[b_ * p_.heads + kv_head_ * group_ + g] =
          static_cast<C>(total);
    }
  }

  static void write_rows(const C* from, int64_t from_stride, int64_t rows, int64_t features,
                         C scale, S* to, int64_t to_stride) {
    for (int64_t r = 0; r < rows; ++r, from += from_stride, to += to_stride)
      for (int64_t f = 0; f < features; f += T::kLanes) {
        const int n = static_cast<int>(smaller<int64_t>(T::kLanes, features - f));
        store_first(to + f, load(from + f) * V(scale), n);
      }
  }

  const BackwardCall& call_;
  const Problem& p_;
  int64_t b_, kv_head_, group_;
  Extent extent_;
  const Place& place_;
  BackwardScratch<T> scratch_;
  Sums sums_;
  bool writes_grad_query_;  // as rows, at once
  Operands operands_;
};

// A unit is `unit_batch` sequences and `unit_heads` key/value heads, one after the other.
template <class T>
void backward(const BackwardCall& call, int64_t unit, Place place) {
  const int64_t across = call.problem.kv_heads / call.unit_heads;
  const int64_t first_b = unit / across * call.unit_batch,
                first_head = unit % across * call.unit_heads;
  T::begin();
  for (int64_t b = first_b; b < first_b + call.unit_batch; ++b)
    for (int64_t head = first_head; head < first_head + call.unit_heads; ++head)
      Backward<T>(call, b, head, place).run();
  T::end();
}

template <class T>
int64_t backward_own(const Problem& p) {
  return BackwardScratch<T>(p, nullptr).bytes;
}

template <class T>
int64_t backward_shared(const Problem& p, int members) {
  return BackwardOperands<T>::bytes(p, members);
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
