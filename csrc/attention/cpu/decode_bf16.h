// Decoding's products of bfloat16 numbers with float sums, by AVX512-BF16 dot products or AMX
// tiles. The weights of the values are rounded to bfloat16.
//
// Keys are multiplied where they lie: their features are the depth of the product. For the values
// the keys are the depth, and both instructions want pairs along it side by side: two rows are
// interleaved in registers, eight numbers of each alternating, and the output's order is put right
// at the end.
#pragma once

#include "attention/cpu/decode_fma.h"
#include "attention/cpu/decode_rows.h"
#include "attention/cpu/decode_tiles.h"
#include "attention/cpu/tile_rows.h"

#ifdef __AVX512BF16__

namespace seqkern {
namespace SEQKERN_ISA {

constexpr int kLineNumbers = 32;  // bfloat16 numbers in a register, and in a cache line

inline __m512i line(const bfloat16* p) {
  return _mm512_loadu_si512(p);
}
inline __m512i line_first(const bfloat16* p, int64_t n) {
  return n >= kLineNumbers ? line(p) : _mm512_maskz_loadu_epi16((1u << n) - 1, p);
}

// Where the features of 32 interleaved numbers of two rows end up: the low result has 0-3, 8-11,
// 16-19 and 24-27, the high one the others.
inline int64_t interleaved_column(int64_t place) {
  const int64_t within = place % kLineNumbers, high = within / 16, lane = within % 16;
  return place - within + lane / 4 * 8 + high * 4 + lane % 4;
}

// Multiplies by vdpbf16ps: each lane adds a pair of products to a float sum.
constexpr int kDotsChunk = 32;

class DecodeDots : public DecodeTiles<DecodeDots, bfloat16, bfloat16, kDotsChunk, kLineNumbers> {
 public:
  using S = bfloat16;
  using C = float;
  using V = Vec<float>;
  static constexpr int kChunk = kDotsChunk;
  static constexpr int kKeyStep = 16;

  static int64_t padded_rows(int64_t rows) { return rows; }
  static int64_t value_stride(int64_t value_dim) { return round_up(value_dim, kLineNumbers); }
  static int64_t column(int64_t place) { return interleaved_column(place); }
  static void order(const float* row, int64_t count, float* to) {
    for (int64_t f = 0; f < count; f += 4)
      std::memcpy(to + interleaved_column(f), row + f, 4 * sizeof(float));
  }
  static int64_t bytes(int64_t dim, int64_t, int64_t rows) {
    return round_up(rows * round_up(dim, kLineNumbers) * 2, kLineBytes) + rows * kChunk * 2;
  }

  DecodeDots(int64_t dim, int64_t value_dim, int64_t rows, char* memory)
      : DecodeTiles(dim, value_dim, rows) {
    Carve carve(memory);
    queries_ = carve.take<bfloat16>(rows * query_stride());
    weights_ = carve.take<bfloat16>(rows * kChunk);
  }

  void begin() {}
  void end() {}

  void set_query(int64_t row, const bfloat16* query) {
    bfloat16* to = queries_ + row * query_stride();
    for (int64_t d = 0; d < dim_; d += kLineNumbers)
      _mm512_storeu_si512(to + d, line_first(query + d, dim_ - d));
  }

  void store_weights(float*, int64_t row, int j, V x) { store(weights_ + row * kChunk + j, x); }
  float weight(const float*, int64_t row, int j) const { return widen(weights_[row * kChunk + j]); }

  void accumulate(Stream<S> values, int count, Stream<S> next, const float*,
                  const float* correction, float* output) const {
    sum_values(values, count, next, weights_, correction, output, value_stride(value_dim_));
  }

 private:
  friend DecodeTiles;

  int64_t query_stride() const { return round_up(dim_, kLineNumbers); }

  template <int kRows, int kKeys>
  void score_tile(int64_t first, Stream<S> keys, NumbersAhead& ahead, float* scores) const {
    V sums[kRows][kKeys];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int j = 0; j < kKeys; ++j) sums[r][j] = V(0.0f);
    const int64_t query_stride = this->query_stride();
    const bfloat16* queries = queries_ + first * query_stride;
    const auto add = [&](int64_t d, __mmask32 kept) __attribute__((always_inline)) {
      __m512i query[kRows];
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) query[r] = line(queries + r * query_stride + d);
#pragma GCC unroll 4
      for (int j = 0; j < kKeys; ++j) {
        ahead.fetch();
        const bfloat16* from = keys.rows + j * keys.stride + d;
        const __m512i key = kept == 0xffffffff ? line(from) : _mm512_maskz_loadu_epi16(kept, from);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r)
          sums[r][j].v = _mm512_dpbf16_ps(sums[r][j].v, (__m512bh)query[r], (__m512bh)key);
      }
    };
    int64_t d = 0;
    for (; d + kLineNumbers <= dim_; d += kLineNumbers) add(d, 0xffffffff);
    if (d < dim_) add(d, (1u << (dim_ - d)) - 1);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) lane_sums<kKeys>(sums[r], scores + r * kChunk);
  }

  template <int kRows, int kLines, class Whole>
  void value_tile(const Tile& tile, int64_t f, NumbersAhead& ahead, Whole) const {
    V sums[kRows][kLines][2];
    const auto output = [&](int r, int l, int i) __attribute__((always_inline)) {
      return tile.output + r * tile.output_stride + f + l * kLineNumbers + i * 16;
    };
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int l = 0; l < kLines; ++l)
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) sums[r][l][i] = load(output(r, l, i)) * V(tile.correction[r]);
    const int64_t stride = tile.values.stride;
    const bfloat16* value = tile.values.rows + f;
    const __mmask32 kept = Whole::value ? 0xffffffff : (1u << (value_dim_ - f)) - 1;
    const auto read = [&](const bfloat16* p) __attribute__((always_inline)) {
      return Whole::value ? line(p) : _mm512_maskz_loadu_epi16(kept, p);
    };
    for (int j = 0; j < tile.count; j += 2, value += 2 * stride) {
      __m512bh pairs[kLines][2];
#pragma GCC unroll 4
      for (int l = 0; l < kLines; ++l) {
        ahead.fetch();
        ahead.fetch();
        const __m512i first = read(value + l * kLineNumbers);
        const __m512i second =
            j + 1 < tile.count ? read(value + stride + l * kLineNumbers) : _mm512_setzero_si512();
        pairs[l][0] = (__m512bh)_mm512_unpacklo_epi16(first, second);
        pairs[l][1] = (__m512bh)_mm512_unpackhi_epi16(first, second);
      }
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        int32_t pair;
        std::memcpy(&pair, tile.weights + r * kChunk + j, sizeof(pair));
        const __m512bh weights = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 4
        for (int l = 0; l < kLines; ++l)
#pragma GCC unroll 2
          for (int i = 0; i < 2; ++i)
            sums[r][l][i].v = _mm512_dpbf16_ps(sums[r][l][i].v, weights, pairs[l][i]);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int l = 0; l < kLines; ++l)
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) store(output(r, l, i), sums[r][l][i]);
  }

  bfloat16 *queries_, *weights_;
};

#ifdef __AMX_BF16__

// Multiplies by AMX: tiles of 16 keys or features by up to 16 rows; more rows come in blocks of 16.
// For head dimensions that are multiples of 32.
//
//   scores^T (keys, rows)     = K (keys, dim)         x Q^T (dim, rows), tiles of K read in place
//   output (rows, features)  += weights (rows, keys)  x V (keys, features), V interleaved
class DecodeAmx {
 public:
  using S = bfloat16;
  using C = float;
  using V = Vec<float>;
  static constexpr int kChunk = 32;  // the depth of a product of tiles
  static constexpr int kKeyStep = kChunk;

  static bool takes(const Problem& p) {
    return p.dim % kChunk == 0 && p.value_dim % kChunk == 0 && p.dim > 0 && p.value_dim > 0;
  }

  static int64_t padded_rows(int64_t rows) { return rows <= kTile ? rows : round_up(rows, kTile); }
  static int64_t value_stride(int64_t value_dim) { return value_dim; }
  static int64_t column(int64_t place) { return interleaved_column(place); }
  static void order(const float* row, int64_t count, float* to) {
    for (int64_t f = 0; f < count; f += 4)
      std::memcpy(to + interleaved_column(f), row + f, 4 * sizeof(float));
  }
  static int64_t bytes(int64_t dim, int64_t, int64_t rows) {
    return Memory(dim, rows, nullptr).bytes;
  }

  DecodeAmx(int64_t dim, int64_t value_dim, int64_t rows, char* memory)
      : dim_(dim),
        value_dim_(value_dim),
        rows_(rows),
        tile_rows_(smaller<int64_t>(rows, kTile)),
        memory_(dim, rows, memory) {
    if (rows % tile_rows_ == 0) return;
    const int64_t padded = padded_rows(rows);  // by rows of zeros
    std::memset(memory_.queries, 0, padded * dim * sizeof(bfloat16));
    std::memset(memory_.weights, 0, padded * kChunk * sizeof(bfloat16));
  }

  void begin() {
    // Tiles 0 and 1: sums of scores. 2: Q^T. 3 and 7: output. 4 and 5: keys or values. 6: weights.
    struct alignas(64) Configuration {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes_per_row[16] = {};
      uint8_t rows[16] = {};
    } c;
    for (int tile = 0; tile < 8; ++tile) {
      const bool holds_rows = tile == 3 || tile >= 6;
      c.bytes_per_row[tile] = static_cast<uint16_t>(tile < 3 ? 4 * tile_rows_ : 64);
      c.rows[tile] = static_cast<uint8_t>(holds_rows ? tile_rows_ : kTile);
    }
    // The intrinsic does not tell the compiler that it reads all of c, nor do the tile loads that
    // they read memory.
    asm volatile("" : : "r"(&c) : "memory");
    _tile_loadconfig(&c);
  }
  void end() { _tile_release(); }

  void set_query(int64_t row, const bfloat16* query) {
    bfloat16* block = memory_.queries + row / kTile * kTile * dim_;
    for (int64_t d = 0; d < dim_; d += 2)
      std::memcpy(block + d * tile_rows_ + row % kTile * 2, query + d, 2 * sizeof(bfloat16));
  }

  void scores(Stream<S> keys, int count, Stream<S> next, float* scores) const {
    Stream<S> low = keys, high = keys.from(kTile);
    const int in_high = count - kTile;
    if (in_high < 0)
      low = copy(low, count);
    else if (in_high > 0 && in_high < kTile)
      high = copy(high, in_high);
    for (int64_t block = 0; block < rows_; block += kTile) {
      const bfloat16* queries = memory_.queries + block * dim_;
      const Stream<S> ahead = block == 0 ? next : low;
      if (in_high > 0)
        score_tiles<2>(queries, low, high, ahead, scores + block * kChunk);
      else
        score_tiles<1>(queries, low, high, ahead, scores + block * kChunk);
    }
  }

  void store_weights(float*, int64_t row, int j, V x) {
    store(memory_.weights + row * kChunk + j, x);
  }
  float weight(const float*, int64_t row, int j) const {
    return widen(memory_.weights[row * kChunk + j]);
  }

  void accumulate(Stream<S> values, int count, Stream<S> next, const float*,
                  const float* correction, float* output) const {
    for (int64_t r = 0; r < rows_; ++r)
      if (correction[r] != 1)
        for (int64_t f = 0; f < value_dim_; f += V::kLanes) {
          float* p = output + r * value_dim_ + f;
          store(p, load(p) * V(correction[r]));
        }
    // The values are interleaved one step ahead of the products, so that the two overlap.
    const int64_t steps = value_dim_ / kChunk;
    prepare(0, steps, values, count, next);
    for (int64_t step = 0; step < steps; ++step) {
      if (step + 1 < steps) prepare(step + 1, steps, values, count, next);
      _tile_loadd(4, pairs(step), 64);
      _tile_loadd(5, pairs(step) + kTile * kChunk, 64);
      for (int64_t block = 0; block < rows_; block += kTile) {
        float* out = output + block * value_dim_ + step * kChunk;
        _tile_loadd(3, out, value_dim_ * 4);
        _tile_loadd(7, out + kTile, value_dim_ * 4);
        _tile_loadd(6, memory_.weights + block * kChunk, kChunk * 2);
        _tile_dpbf16ps(3, 6, 4);
        _tile_dpbf16ps(7, 6, 5);
        _tile_stored(3, out, value_dim_ * 4);
        _tile_stored(7, out + kTile, value_dim_ * 4);
      }
    }
  }

 private:
  static constexpr int kTile = 16;

  struct Memory {
    Memory(int64_t dim, int64_t rows, char* memory) {
      Carve carve(memory);
      queries = carve.take<bfloat16>(padded_rows(rows) * dim);
      weights = carve.take<bfloat16>(padded_rows(rows) * kChunk);
      pairs = carve.take<bfloat16>(2 * kChunk * kChunk);
      keys = carve.take<bfloat16>(kTile * dim);
      sums = carve.take<float>(kTile * kTile);
      bytes = carve.taken();
    }
    bfloat16* queries;  // Q^T: [block of 16 rows][dim / 2][row][2]
    bfloat16* weights;  // (rows, kChunk)
    bfloat16* pairs;    // 32 features of 32 values, twice: [16 features][pair of keys][feature][2]
    bfloat16* keys;     // a copy of the last keys
    float* sums;        // a tile of scores^T
    int64_t bytes;
  };

  // A tile reads 16 rows: fewer are copied, with zeros below.
  Stream<S> copy(Stream<S> keys, int count) const {
    for (int j = 0; j < count; ++j)
      std::memcpy(memory_.keys + j * dim_, keys.rows + j * keys.stride, dim_ * sizeof(bfloat16));
    std::memset(memory_.keys + count * dim_, 0, (kTile - count) * dim_ * sizeof(bfloat16));
    return {memory_.keys, dim_};
  }

  template <int kTiles>
  void score_tiles(const bfloat16* queries, Stream<S> keys, Stream<S> more_keys, Stream<S> next,
                   float* scores) const {
    _tile_zero(0);
    if constexpr (kTiles > 1) _tile_zero(1);
    for (int64_t d = 0; d < dim_; d += kChunk) {
      for (int j = 0; j < kTiles * kTile; ++j) prefetch(next.rows + j * next.stride + d);
      _tile_loadd(2, queries + d * tile_rows_, 4 * tile_rows_);
      _tile_loadd(4, keys.rows + d, keys.stride * 2);
      _tile_dpbf16ps(0, 4, 2);
      if constexpr (kTiles > 1) {
        _tile_loadd(5, more_keys.rows + d, more_keys.stride * 2);
        _tile_dpbf16ps(1, 5, 2);
      }
    }
    _tile_stored(0, memory_.sums, 64);
    transpose(scores);
    if constexpr (kTiles > 1) {
      _tile_stored(1, memory_.sums, 64);
      transpose(scores + kTile);
    }
  }

  // (16 keys, rows) to (rows, 16 keys), four rows at a time.
  void transpose(float* scores) const {
    for (int64_t r = 0; r < tile_rows_; r += 4) {
      __m512 keys[4];  // the four rows' scores of the keys i, 4 + i, 8 + i and 12 + i
      for (int i = 0; i < 4; ++i) {
        const float* from = memory_.sums + i * kTile + r;
        keys[i] = _mm512_castps128_ps512(_mm_loadu_ps(from));
        keys[i] = _mm512_insertf32x4(keys[i], _mm_loadu_ps(from + 4 * kTile), 1);
        keys[i] = _mm512_insertf32x4(keys[i], _mm_loadu_ps(from + 8 * kTile), 2);
        keys[i] = _mm512_insertf32x4(keys[i], _mm_loadu_ps(from + 12 * kTile), 3);
      }
      const __m512 a = _mm512_unpacklo_ps(keys[0], keys[1]);
      const __m512 b = _mm512_unpackhi_ps(keys[0], keys[1]);
      const __m512 c = _mm512_unpacklo_ps(keys[2], keys[3]);
      const __m512 d = _mm512_unpackhi_ps(keys[2], keys[3]);
      const __m512 rows[4] = {_mm512_shuffle_ps(a, c, 0x44), _mm512_shuffle_ps(a, c, 0xee),
                              _mm512_shuffle_ps(b, d, 0x44), _mm512_shuffle_ps(b, d, 0xee)};
      for (int i = 0; i < 4 && r + i < tile_rows_; ++i)
        _mm512_storeu_ps(scores + (r + i) * kChunk, rows[i]);
    }
  }

  bfloat16* pairs(int64_t step) const { return memory_.pairs + step % 2 * kChunk * kChunk; }

  // Interleaves pairs of 32 features of the values for a step, with zeros where there are fewer
  // values than 32, and prefetches the step's share of the rows to come, whole rows in the order in
  // which they lie: processors that fetch ahead on their own would otherwise fetch all of them
  // during the first step and nothing during the others.
  void prepare(int64_t step, int64_t steps, Stream<S> values, int count, Stream<S> next) const {
    for (int64_t j = kChunk * step / steps; j < kChunk * (step + 1) / steps; ++j)
      for (int64_t d = 0; d < dim_; d += kLineNumbers) prefetch(next.rows + j * next.stride + d);
    const bfloat16* value = values.rows + step * kChunk;
    bfloat16* to = pairs(step);
    const __m512i zero = _mm512_setzero_si512();
    for (int j = 0; j < kChunk; j += 2, value += 2 * values.stride, to += kChunk) {
      const __m512i a = j < count ? line(value) : zero;
      const __m512i b = j + 1 < count ? line(value + values.stride) : zero;
      _mm512_store_si512(to, _mm512_unpacklo_epi16(a, b));
      _mm512_store_si512(to + kTile * kChunk, _mm512_unpackhi_epi16(a, b));
    }
  }

  int64_t dim_, value_dim_, rows_, tile_rows_;
  Memory memory_;
};

#endif  // __AMX_BF16__

}  // namespace SEQKERN_ISA
}  // namespace seqkern

#endif  // __AVX512BF16__
