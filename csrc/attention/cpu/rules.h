// What a score goes through before the softmax, for one head of one sequence: scale, softcap, bias,
// ALiBi, and which keys a query may see.
//
// Scores are tiles S^T of (keys, kQueries); a key's row of 64 flags is one 64-bit number, bit q for
// query q of the tile.
#pragma once

#include "attention/cpu/fma_tiles.h"
#include "attention/cpu/philox.h"
#include "attention/cpu/problem.h"
#include "common/blocks.h"

namespace seqkern {
namespace SEQKERN_ISA {

struct Range {
  int64_t begin, end;
};

enum class Tile { kSkip, kFull, kMixed };

// The rectangle of queries and keys that a tile of scores covers.
struct Rectangle {
  int64_t first_query;
  int queries;
  int64_t first_key;
  int keys;
};

constexpr double kLog2e = 1.44269504088896340736, kLn2 = 0.693147180559945309417;

template <class C>
constexpr C kInfinity = C(__builtin_inf());

// The least finite score: times log2(e) it is still finite. A mask of the dtype's lowest number is
// common, and a row in which every key has it attends to all of them alike.
template <class C>
constexpr C kLeastScore = sizeof(C) == 4 ? C(-2.3e38) : C(-1.2e308);
// Less than any score in units of log2.
template <class C>
constexpr C kLeastExponent = sizeof(C) == 4 ? C(-3.4e38) : C(-1.79e308);

// What makes scores of a tile's numbers: in natural units and in units of log2.
template <class C>
struct Factors {
  C log2, natural;
};

// Exponents of 2 beyond this need care: a sum of two that were rounded on their own, such as a
// score and the maximum, is no longer near enough to the true one.
template <class C>
constexpr C kHuge = sizeof(C) == 4 ? C(1 << 14) : C(int64_t(1) << 40);

template <class C>
inline typename Raw<C>::integers is_huge(Vec<C> exponent) {
  typename Raw<C>::integers sign;
  const Vec<C> size = magnitude(exponent, sign);
  return (size.v > Vec<C>(kHuge<C>).v) & (size.v < Vec<C>(kInfinity<C>).v);
}
template <class C>
inline bool any_huge(Vec<C> exponent) {
  return any(is_huge(exponent));
}
template <class C>
inline Vec<C> huge_or(Vec<C> exponent, Vec<C> if_huge, Vec<C> otherwise) {
  return Vec<C>(typename Raw<C>::full(is_huge(exponent) ? if_huge.v : otherwise.v));
}

// Keeps the compiler from making a multiplication part of an FMA, which would not round it.
template <class C>
inline Vec<C> rounded(Vec<C> x) {
#ifdef __x86_64__
  asm("" : "+x"(x.v));
#else
  asm("" : "+w"(x.v));
#endif
  return x;
}

template <class S>
class Rules {
 public:
  using C = compute_t<S>;
  using V = Vec<C>;

  Rules(const Problem& problem, int64_t b, int64_t head, const Extent& extent)
      : extent_(extent),
        band_(band_of(problem, extent)),
        mask_(at(problem.mask, b, head, 1)),
        bias_(at(problem.bias, b, head,
                 problem.bias_is_float ? sizeof(float) : static_cast<int64_t>(sizeof(S)))),
        bias_is_float_(problem.bias_is_float),
        mask_excludes_(problem.mask_excludes),
        scale_(static_cast<C>(problem.scale)),
        softcap_(static_cast<C>(problem.softcap)),
        slope_(problem.slopes
                   ? static_cast<const C*>(problem.slopes)[b * problem.slopes_batch + head]
                   : C(0)),
        has_slope_(problem.slopes != nullptr),
        keys_{0, extent.keys} {
    if (mask_.data && mask_.query == 0) {  // padding: the same keys for every query
      const uint8_t* m = static_cast<const uint8_t*>(mask_.data);
      while (keys_.end > 0 && !takes_part(m[(keys_.end - 1) * mask_.key])) --keys_.end;
      while (keys_.begin < keys_.end && !takes_part(m[keys_.begin * mask_.key])) ++keys_.begin;
    }
  }

  // Whether the scores of a tile need more than a multiplication by a positive factor.
  bool transforms() const { return softcap_ != 0 || bias_.data || has_slope_ || scale_ <= 0; }
  // For a tile's scores, to which transform() was applied if transforms().
  Factors<C> factors() const {
    return {static_cast<C>(transforms() ? kLog2e : scale_ * kLog2e), transforms() ? C(1) : scale_};
  }
  bool has_bias() const { return bias_.data != nullptr; }

  // The keys that some of the queries may see, and the queries that may see some of the keys.
  Range keys_for(int64_t first, int64_t end) const {
    return {larger(keys_.begin, first + band_.low),
            larger<int64_t>(0, smaller(keys_.end, end - 1 + band_.high + 1))};
  }
  Range queries_for(int64_t first, int64_t end) const {
    if (end <= keys_.begin || first >= keys_.end) return {0, 0};
    return {larger<int64_t>(0, first - band_.high),
            larger<int64_t>(0, smaller(extent_.queries, end - 1 - band_.low + 1))};
  }

  // The first query of a tile, counted from its first, that may see any of its keys.
  int first_query(const Rectangle& r) const {
    return static_cast<int>(clamp_to(r.first_key - band_.high - r.first_query, r.queries - 1));
  }

  // Which of a tile's scores take part; fills allowed[0 ... keys) if the answer is kMixed.
  __attribute__((noinline)) Tile classify(const Rectangle& r, uint64_t* allowed) const {
    const int64_t last_query = r.first_query + r.queries - 1, last_key = r.first_key + r.keys - 1;
    if (r.first_key - last_query > band_.high || last_key - r.first_query < band_.low)
      return Tile::kSkip;
    const bool inside =
        last_key - r.first_query <= band_.high && r.first_key - last_query >= band_.low;
    if (inside && !mask_.data) return Tile::kFull;
    const uint64_t everyone = bits_below(r.queries);
    if (mask_.data)
      read_mask(r, everyone, allowed);
    else
      for (int j = 0; j < r.keys; ++j) allowed[j] = everyone;
    if (!inside)
      for (int j = 0; j < r.keys; ++j) {
        const int64_t key = r.first_key + j - r.first_query;
        const int64_t begin = clamp_to(key - band_.high, r.queries);
        const int64_t end = clamp_to(key - band_.low + 1, r.queries);
        allowed[j] &= bits_below(end) & ~bits_below(begin);
      }
    uint64_t some = 0, all = everyone;
    for (int j = 0; j < r.keys; ++j) some |= allowed[j], all &= allowed[j];
    return some == 0 ? Tile::kSkip : all == everyone ? Tile::kFull : Tile::kMixed;
  }

  // Scores as the products gave them to scores in natural units. `slope`, if it is given, gets the
  // derivative of a transformed score by the one before softcap and bias (without scale).
  __attribute__((noinline)) void transform(const Rectangle& r, int vectors, C* scores, C* bias_tile,
                                           C* slope) const {
    if (bias_.data) read_bias(r, bias_tile);
    const V scale(scale_), least(kLeastScore<C>), excluded(-kInfinity<C>);
    const V inverse_cap(softcap_ != 0 ? 1 / softcap_ : C(0)), cap(softcap_);
    const int64_t shift = extent_.keys - extent_.queries;
    for (int j = 0; j < r.keys; ++j)
      for (int v = 0; v < vectors; ++v) {
        const int64_t at = j * kQueries + v * V::kLanes;
        V x = load(scores + at) * scale;
        if (softcap_ != 0) {
          const V t = tanh_(x * inverse_cap);
          if (slope) store(slope + at, 1 - t * t);
          x = t * cap;
        }
        if (has_slope_) {
          const V distance =
              iota<C>() +
              V(static_cast<C>(r.first_query + v * V::kLanes + shift - r.first_key - j));
          typename Raw<C>::integers sign;
          x = x - V(slope_) * magnitude(distance, sign);
        }
        V bias = V(C(0));
        if (bias_.data) {
          bias = load(bias_tile + at);
          x += bias;
        }
        const V bounded = x.v < least.v ? least.v : x.v;  // a NaN stays
        const V kept = x.v == excluded.v ? excluded.v : bounded.v;
        store(scores + at, V(typename V::raw(bias.v == excluded.v ? excluded.v : kept.v)));
      }
  }

  // Minus infinity where a score does not take part.
  __attribute__((noinline)) static void exclude(const uint64_t* allowed, int keys, int vectors,
                                                C* scores) {
    for (int j = 0; j < keys; ++j) {
      if (allowed[j] == ~uint64_t(0)) continue;
      for (int v = 0; v < vectors; ++v) {
        C* p = scores + j * kQueries + v * V::kLanes;
        store(p, where_bits(allowed[j] >> (v * V::kLanes), load(p), -kInfinity<C>));
      }
    }
  }

  // Whether a bias of minus infinity excludes the key for the query.
  bool bias_excludes(int64_t query, int64_t key) const {
    return bias_.data && bias_at(query, key) == -kInfinity<C>;
  }

  // The derivative of a score by the slope of ALiBi.
  C slope_derivative(int64_t query, int64_t key) const {
    const int64_t distance = query + extent_.keys - extent_.queries - key;
    return static_cast<C>(distance < 0 ? distance : -distance);
  }

 private:
  // A mask or bias of one head.
  static Scores at(Scores s, int64_t b, int64_t head, int64_t element) {
    if (s.data) s.data = static_cast<const char*>(s.data) + (b * s.batch + head * s.head) * element;
    return s;
  }

  static uint64_t bits_below(int64_t n) { return n >= 64 ? ~uint64_t(0) : (uint64_t(1) << n) - 1; }
  static int64_t clamp_to(int64_t x, int64_t most) { return x < 0 ? 0 : x > most ? most : x; }

  bool takes_part(uint8_t flag) const { return (flag != 0) != mask_excludes_; }

  void read_mask(const Rectangle& r, uint64_t everyone, uint64_t* allowed) const {
    const uint8_t* m = static_cast<const uint8_t*>(mask_.data) + r.first_query * mask_.query +
                       r.first_key * mask_.key;
    if (mask_.query == 0) {
      for (int j = 0; j < r.keys; ++j) allowed[j] = takes_part(m[j * mask_.key]) ? everyone : 0;
      return;
    }
    for (int j = 0; j < r.keys; ++j) allowed[j] = 0;
    for (int q = 0; q < r.queries; ++q, m += mask_.query) {
      if (mask_.key == 1)  // the common case, in a form that the compiler vectorises
        for (int j = 0; j < r.keys; ++j) allowed[j] |= static_cast<uint64_t>(takes_part(m[j])) << q;
      else
        for (int j = 0; j < r.keys; ++j)
          allowed[j] |= static_cast<uint64_t>(takes_part(m[j * mask_.key])) << q;
    }
  }

  C bias_at(int64_t query, int64_t key) const {
    const int64_t at = query * bias_.query + key * bias_.key;
    return bias_is_float_ ? static_cast<C>(static_cast<const float*>(bias_.data)[at])
                          : widen(static_cast<const S*>(bias_.data)[at]);
  }

  void read_bias(const Rectangle& r, C* tile) const {
    if (bias_.query == 0) {
      for (int j = 0; j < r.keys; ++j) {
        const V value(bias_at(0, r.first_key + j));
        for (int v = 0; v < kQueries / V::kLanes; ++v)
          store(tile + j * kQueries + v * V::kLanes, value);
      }
      return;
    }
    for (int q = 0; q < r.queries; q += kBiasRows) {
      const int rows = smaller(kBiasRows, r.queries - q);
      for (int first = 0; first < r.keys; first += kBiasStrip)
        read_bias_block(r.first_query + q, r.first_key + first, rows,
                        smaller(kBiasStrip, r.keys - first), tile + first * kQueries + q);
    }
  }

  static constexpr int kBiasRows = 16, kBiasStrip = 64;

  // tile (keys, kQueries) = the bias of some queries, at most kBiasRows, and keys, transposed.
  void read_bias_block(int64_t query, int64_t key, int queries, int keys, C* tile) const {
    if (bias_.key == 1 && __is_same(C, float) && (bias_is_float_ || __is_same(S, float))) {
      const C* rows = static_cast<const C*>(bias_.data) + query * bias_.query + key;
      return store_bias_block(rows, bias_.query, queries, keys, tile);
    }
    C copy[kBiasRows * kBiasStrip];
    int i = 0;
    do {
      read_bias_row(query + i, key, keys, copy + i * kBiasStrip);
    } while (++i < queries);
    store_bias_block(copy, kBiasStrip, queries, keys, tile);
  }

  static void store_bias_block(const C* rows, int64_t stride, int queries, int keys, C* tile) {
    // Behind the last query to the end of a vector, as for the last query: what lies there takes
    // part in the decisions of whole vectors.
    if (queries % V::kLanes)
      for (int j = 0; j < keys; ++j)
        store(tile + j * kQueries + queries / V::kLanes * V::kLanes,
              V(rows[(queries - 1) * stride + j]));
    int whole_rows = 0, whole_keys = 0;
    if constexpr (sizeof(C) == 4) {
      whole_rows = queries / 4 * 4;
      whole_keys = keys / 4 * 4;
      transpose(rows, stride, whole_rows, whole_keys, tile, kQueries);
    }
    for (int i = 0; i < queries; ++i)
      for (int j = i < whole_rows ? whole_keys : 0; j < keys; ++j)
        tile[j * kQueries + i] = rows[i * stride + j];
  }

  __attribute__((noinline)) void read_bias_row(int64_t query, int64_t key, int keys, C* row) const {
    const int64_t at = query * bias_.query + key * bias_.key;
    if (bias_.key != 1) {
      for (int j = 0; j < keys; ++j) row[j] = bias_at(query, key + j);
    } else if (bias_is_float_) {
      const float* from = static_cast<const float*>(bias_.data) + at;
      for (int j = 0; j < keys; ++j) row[j] = static_cast<C>(from[j]);
    } else {
      const S* from = static_cast<const S*>(bias_.data) + at;
      for (int j = 0; j < keys; ++j) row[j] = widen(from[j]);
    }
  }

  Extent extent_;
  Band band_;
  Scores mask_, bias_;
  bool bias_is_float_, mask_excludes_;
  C scale_, softcap_, slope_;
  bool has_slope_;
  Range keys_;  // what padding leaves
};

}  // namespace SEQKERN_ISA
}  // namespace seqkern
