// Small helpers around tiles: scratch memory, a vector's logarithm, and the way from columns back
// to rows.
#pragma once

#include "attention/cpu/problem.h"
#include "common/blocks.h"

namespace seqkern {
namespace SEQKERN_ISA {

// Queries of a tile: the width of S^T, P^T, dS^T.
constexpr int kQueries = static_cast<int>(kTileQueries);

// Cuts scratch memory into pieces that begin at cache lines; with null memory it only counts.
class Carve {
 public:
  explicit Carve(char* memory) : memory_(memory) {}

  template <class X>
  X* take(int64_t count) {
    char* piece = memory_ ? memory_ + taken_ : nullptr;
    taken_ += round_up(count * static_cast<int64_t>(sizeof(X)), kLineBytes);
    return reinterpret_cast<X*>(piece);
  }

  int64_t taken() const { return taken_; }

 private:
  char* memory_;
  int64_t taken_ = 0;
};

// Zeros in the vectors [begin, end) of each of so many rows of kQueries.
template <class C>
inline void zero_vectors(C* rows, int64_t count, int begin, int end) {
  constexpr int kLanes = Vec<C>::kLanes;
  for (int64_t r = 0; r < count; ++r)
    for (int v = begin; v < end; ++v) store(rows + r * kQueries + v * kLanes, Vec<C>(C(0)));
}

// The greater of each lane; a NaN in x comes through.
template <class T>
inline Vec<T> greater(Vec<T> x, Vec<T> least) {
  return typename Vec<T>::raw(x.v < least.v ? least.v : x.v);
}
#if defined(__AVX512F__)
inline Vec<float> greater(Vec<float> x, Vec<float> least) {
  return Vec<float>::raw(_mm512_max_ps(least.v, x.v));
}
inline Vec<double> greater(Vec<double> x, Vec<double> least) {
  return Vec<double>::raw(_mm512_max_pd(least.v, x.v));
}
#elif defined(__AVX2__)
inline Vec<float> greater(Vec<float> x, Vec<float> least) {
  return Vec<float>::raw(_mm256_max_ps(least.v, x.v));
}
inline Vec<double> greater(Vec<double> x, Vec<double> least) {
  return Vec<double>::raw(_mm256_max_pd(least.v, x.v));
}
#endif

// Whether any lane of a comparison's result is set.
template <class Lanes>
inline bool any(Lanes lanes) {
  uint64_t words[kVectorBytes / 8], all = 0;
  std::memcpy(words, &lanes, sizeof(words));
  for (uint64_t word : words) all |= word;
  return all != 0;
}

// ln(x) lane by lane.
inline Vec<double> log_(Vec<double> x) {
  for (int i = 0; i < Vec<double>::kLanes; ++i) x.v[i] = __builtin_log(x.v[i]);
  return x;
}

// ln(x) for normal numbers, infinity and NaN, within 2e-7: x = m * 2^e with m around 1, and
// ln(m) = 2 artanh((m - 1) / (m + 1)) by its series.
inline Vec<float> log_(Vec<float> x) {
  using Integers = Raw<float>::integers;
  Integers bits;
  std::memcpy(&bits, &x.v, sizeof(bits));
  constexpr int32_t kRootHalf = 0x3f3504f3;  // sqrt(1/2), where m begins
  const Integers exponent = (bits - kRootHalf) >> 23;
  bits -= exponent << 23;
  Vec<float> m, e = Vec<float>::raw(__builtin_convertvector(exponent, Vec<float>::raw));
  std::memcpy(&m.v, &bits, sizeof(bits));
  const Vec<float> s = (m - 1) / (m + 1), s2 = s * s;
  Vec<float> p = s2 * Vec<float>(1.0f / 9) + Vec<float>(1.0f / 7);
  p = p * s2 + Vec<float>(1.0f / 5);
  p = p * s2 + Vec<float>(1.0f / 3);
  const Vec<float> log_m = 2 * s + 2 * s * (s2 * p);
  const Vec<float> result = e * Vec<float>(0.693147182f) + log_m;
  const Vec<float> infinity(__builtin_inff());
  return Vec<float>::raw(x.v < infinity.v ? result.v : x.v);
}

// to (queries, features) = the transposed columns (features, kQueries), each column times its
// scale; rows has room for queries * features.
template <class C, class S>
__attribute__((noinline)) void rows_from_columns(const C* columns, const C* scale, int queries,
                                                 int64_t features, C* rows, S* to,
                                                 int64_t to_stride) {
  constexpr int kLanes = Vec<C>::kLanes;
  const bool direct = __is_same(C, S);
  C* out = direct ? reinterpret_cast<C*>(to) : rows;
  const int64_t stride = direct ? to_stride : features;
  int64_t f = 0;
  int whole = 0;
  if constexpr (sizeof(C) == 4) {
    whole = queries / 4 * 4;
    constexpr int kStrip = 16;
    alignas(64) C strip[kStrip][kQueries];
    while (f + 4 <= features) {
      const int64_t height = smaller<int64_t>(kStrip, (features - f) / 4 * 4);
      for (int i = 0; i < height; ++i)
        for (int q = 0; q < whole; q += kLanes)
          store(&strip[i][q], load(columns + (f + i) * kQueries + q) * load(scale + q));
      transpose(strip, kQueries, height, whole, out + f, stride);
      f += height;
    }
  }
  for (int64_t k = 0; k < features; ++k)
    for (int q = k < f ? whole : 0; q < queries; ++q)
      out[q * stride + k] = columns[k * kQueries + q] * scale[q];
  if constexpr (!__is_same(C, S))
    for (int q = 0; q < queries; ++q)
      for (int64_t k = 0; k < features; k += kLanes) {
        const int n = static_cast<int>(smaller<int64_t>(kLanes, features - k));
        store_first(to + q * to_stride + k, load_first(out + q * stride + k, n), n);
      }
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
