// Decoding's products by FMA in the compute type: float and double on every level, bfloat16
// (widened) where there is nothing better.
//
// bfloat16 is widened two numbers a lane: those at even places are a shift away from being floats,
// those at odd places a mask. So 2 * kLanes features become a vector of the even ones and a vector
// of the odd ones, the queries are laid out in the same way, and the output's order is put right
// at the end.
#pragma once

#include "attention/cpu/decode_tiles.h"
#include "common/blocks.h"

namespace seqkern {
namespace SEQKERN_ISA {

// As many numbers of storage as fill a register, and what they are in the compute type.
template <class S>
struct Step {
  using C = compute_t<S>;
  using V = Vec<C>;
  static constexpr int kParts = sizeof(C) / sizeof(S);
  static constexpr int kSize = kParts * V::kLanes;

  V part[kParts];

  static Step read(const S* p) {
    Step step;
    if constexpr (kParts == 1) {
      step.part[0] = load(p);
    } else {
      Bits32 both;
      std::memcpy(&both, p, sizeof(both));
      const Bits32 even = both << 16, odd = both & 0xffff0000u;
      std::memcpy(&step.part[0], &even, sizeof(even));
      std::memcpy(&step.part[1], &odd, sizeof(odd));
    }
    return step;
  }

  // The first n numbers, and zeros.
  static Step read_first(const S* p, int n) {
#if defined(__AVX512F__)
    __m512i bits;
    if constexpr (sizeof(S) == 2)
      bits = _mm512_maskz_loadu_epi16((1u << n) - 1, p);
    else if constexpr (sizeof(S) == 4)
      bits = _mm512_maskz_loadu_epi32(static_cast<__mmask16>((1u << n) - 1), p);
    else
      bits = _mm512_maskz_loadu_epi64(static_cast<__mmask8>((1u << n) - 1), p);
    S numbers[kSize];
    std::memcpy(numbers, &bits, sizeof(numbers));
#else
    S numbers[kSize] = {};
    for (int i = 0; i < n; ++i) numbers[i] = p[i];
#endif
    return read(numbers);
  }

  // The feature at a place of a row in this order.
  static int64_t column(int64_t place) {
    const int64_t within = place % kSize;
    return place - within + within % V::kLanes * kParts + within / V::kLanes;
  }
};

// sums[i] = the sum of x[i]'s lanes.
template <int kCount, class T>
inline void lane_sums(const Vec<T>* x, T* sums) {
#if defined(__AVX512F__)
  if constexpr (kCount == 4 && sizeof(T) == 4) {
    // Four vectors become one that holds a part of the four sums in each quarter.
    const __m512 ab = _mm512_unpacklo_ps(x[0].v, x[1].v) + _mm512_unpackhi_ps(x[0].v, x[1].v);
    const __m512 cd = _mm512_unpacklo_ps(x[2].v, x[3].v) + _mm512_unpackhi_ps(x[2].v, x[3].v);
    const __m512 low = _mm512_shuffle_ps(ab, cd, 0x44), high = _mm512_shuffle_ps(ab, cd, 0xee);
    const __m512 quarters = low + high;
    const __m256 halves = _mm512_castps512_ps256(quarters) + _mm512_extractf32x8_ps(quarters, 1);
    const __m128 all = _mm256_castps256_ps128(halves) + _mm256_extractf128_ps(halves, 1);
    std::memcpy(sums, &all, sizeof(all));
    return;
  }
#endif
  for (int i = 0; i < kCount; ++i) sums[i] = sum(x[i]);
}

// Keys: 8 KiB of them where D = 128. The values and what comes next of both also have their place
// in L1, and memory must not idle for long while the softmax is at work.
template <class S>
constexpr int kFmaChunk = 64 / sizeof(S);

template <class S_>
class DecodeFma
    : public DecodeTiles<DecodeFma<S_>, S_, compute_t<S_>, kFmaChunk<S_>, Step<S_>::kSize> {
 public:
  using S = S_;
  using C = compute_t<S>;
  using V = Vec<C>;
  using Numbers = Step<S>;
  static constexpr int kChunk = kFmaChunk<S>;
  static constexpr int kKeyStep = V::kLanes;

  static int64_t padded_rows(int64_t rows) { return rows; }
  static int64_t value_stride(int64_t value_dim) { return round_up(value_dim, Numbers::kSize); }
  // The feature at a place of an output row, and a whole row in the features' order.
  static int64_t column(int64_t place) { return Numbers::column(place); }
  static void order(const C* row, int64_t count, C* to) {
    for (int64_t f = 0; f < count; f += Numbers::kSize)
      for (int lane = 0; lane < V::kLanes; ++lane)
        for (int i = 0; i < Numbers::kParts; ++i)
          to[f + lane * Numbers::kParts + i] = row[f + i * V::kLanes + lane];
  }
  static int64_t bytes(int64_t dim, int64_t, int64_t rows) {
    return rows * round_up(dim, Numbers::kSize) * static_cast<int64_t>(sizeof(C));
  }

  DecodeFma(int64_t dim, int64_t value_dim, int64_t rows, char* memory)
      : Tiles(dim, value_dim, rows), queries_(reinterpret_cast<C*>(memory)) {}

  void begin() {}
  void end() {}

  void set_query(int64_t row, const S* query) {
    C* to = queries_ + row * query_stride();
    for (int64_t d = 0; d < dim_; d += Numbers::kSize) {
      const Numbers numbers = at(query, d, dim_);
      for (int i = 0; i < Numbers::kParts; ++i) store(to + d + i * V::kLanes, numbers.part[i]);
    }
  }

  void store_weights(C* scores, int64_t row, int j, V x) { store(scores + row * kChunk + j, x); }
  C weight(const C* scores, int64_t row, int j) const { return scores[row * kChunk + j]; }

  void accumulate(Stream<S> values, int count, Stream<S> next, const C* weights,
                  const C* correction, C* output) const {
    this->sum_values(values, count, next, weights, correction, output, value_stride(value_dim_));
  }

 private:
  using Tiles = DecodeTiles<DecodeFma, S, C, kChunk, Numbers::kSize>;
  using Tiles::dim_;
  using Tiles::value_dim_;
  using typename Tiles::NumbersAhead;
  using typename Tiles::Tile;
  friend Tiles;

  int64_t query_stride() const { return round_up(dim_, Numbers::kSize); }

  static Numbers at(const S* row, int64_t d, int64_t depth) {
    const int64_t rest = depth - d;
    return rest >= Numbers::kSize ? Numbers::read(row + d)
                                  : Numbers::read_first(row + d, static_cast<int>(rest));
  }

  template <int kRows, int kKeys>
  void score_tile(int64_t first, Stream<S> keys, NumbersAhead& ahead, C* scores) const {
    V sums[kRows][kKeys];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int j = 0; j < kKeys; ++j) sums[r][j] = V(C(0));
    const int64_t query_stride = this->query_stride();
    const C* queries = queries_ + first * query_stride;
    const auto add = [&](int64_t d, auto read) __attribute__((always_inline)) {
#pragma GCC unroll 4
      for (int j = 0; j < kKeys; ++j) {
        ahead.fetch();
        const Numbers key = read(keys.rows + j * keys.stride + d);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
          for (int i = 0; i < Numbers::kParts; ++i)
            sums[r][j] += load(queries + r * query_stride + d + i * V::kLanes) * key.part[i];
      }
    };
    int64_t d = 0;
    for (; d + Numbers::kSize <= dim_; d += Numbers::kSize) add(d, Numbers::read);
    if (d < dim_) {
      const int rest = static_cast<int>(dim_ - d);
      add(d, [rest](const S* p) { return Numbers::read_first(p, rest); });
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) lane_sums<kKeys>(sums[r], scores + r * kChunk);
  }

  template <int kRows, int kSteps, class Whole>
  void value_tile(const Tile& tile, int64_t f, NumbersAhead& ahead, Whole) const {
    const auto read = [rest = static_cast<int>(value_dim_ - f)](const S* p)
                          __attribute__((always_inline)) {
                            return Whole::value ? Numbers::read(p) : Numbers::read_first(p, rest);
                          };
    V sums[kRows][kSteps][Numbers::kParts];
    const auto output = [&](int r, int s, int i) __attribute__((always_inline)) {
      return tile.output + r * tile.output_stride + f + s * Numbers::kSize + i * V::kLanes;
    };
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int s = 0; s < kSteps; ++s)
#pragma GCC unroll 2
        for (int i = 0; i < Numbers::kParts; ++i)
          sums[r][s][i] = load(output(r, s, i)) * V(tile.correction[r]);
    const S* value = tile.values.rows + f;
    for (int j = 0; j < tile.count; ++j, value += tile.values.stride) {
      Numbers numbers[kSteps];
#pragma GCC unroll 8
      for (int s = 0; s < kSteps; ++s) {
        ahead.fetch();
        numbers[s] = read(value + s * Numbers::kSize);
      }
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const V weight(tile.weights[r * kChunk + j]);
#pragma GCC unroll 8
        for (int s = 0; s < kSteps; ++s)
#pragma GCC unroll 2
          for (int i = 0; i < Numbers::kParts; ++i) sums[r][s][i] += weight * numbers[s].part[i];
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int s = 0; s < kSteps; ++s)
#pragma GCC unroll 2
        for (int i = 0; i < Numbers::kParts; ++i) store(output(r, s, i), sums[r][s][i]);
  }

  C* queries_;
};

}  // namespace SEQKERN_ISA
}  // namespace seqkern
