// Products of one tile of bfloat16 operands with float sums, by AVX512-BF16 dot products or AMX.
// The products are those of fma_tiles.h, in the same form.
//
// Left operands are cut into AMX tiles of 16 rows and 32 of depth; right operands and P^T, dS^T as
// such keep pairs of depth together: element (k, column) lies at [k / 2][column][k % 2]. Depth is
// padded to a multiple of 32 with zeros.
#pragma once

#include "attention/cpu/fma_tiles.h"
#include "attention/cpu/tile_rows.h"

#ifdef __AVX512BF16__

namespace seqkern {
namespace SEQKERN_ISA {

constexpr int kTileRows = 16;
constexpr int kTileDepth = 32;
constexpr int64_t kTileSize = kTileRows * kTileDepth;

struct Bf16Left {
  const bfloat16* data;
  int64_t row, row_tile, depth_tile;  // strides of rows in a tile and of tiles

  const bfloat16* tile(int64_t row_index, int64_t depth_index) const {
    return data + row_index * row_tile + depth_index * depth_tile;
  }
};

struct Bf16Right {
  const bfloat16* data;
  int64_t stride;  // of pairs of depth
};

// Two vectors of floats, rounded, as pairs.
inline __m512i bf16_pairs(Vec<float> first, Vec<float> second) {
  alignas(64) static constexpr uint16_t kInterleave[32] = {
      0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(second.v, first.v);
  return _mm512_permutexvar_epi16(_mm512_load_si512(kInterleave), both);
}

// Interleaves two rows of 32 numbers.
inline void store_wide_row_pair(const bfloat16* first, const bfloat16* second, bfloat16* to) {
  alignas(64) static constexpr uint16_t kLow[32] = {0,  32, 1,  33, 2,  34, 3,  35, 4,  36, 5,
                                                    37, 6,  38, 7,  39, 8,  40, 9,  41, 10, 42,
                                                    11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i low = _mm512_load_si512(kLow), a = _mm512_loadu_si512(first);
  const __m512i b = _mm512_loadu_si512(second), high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  _mm512_storeu_si512(to, _mm512_permutex2var_epi16(a, low, b));
  _mm512_storeu_si512(to + 32, _mm512_permutex2var_epi16(a, high, b));
}

// Interleaves two rows of 16 numbers.
inline void store_row_pair(const bfloat16* first, const bfloat16* second, bfloat16* to) {
  Bits16 low, high;
  std::memcpy(&low, first, sizeof(low));
  std::memcpy(&high, second, sizeof(high));
  const Bits32 both = __builtin_convertvector(low, Bits32) | __builtin_convertvector(high, Bits32)
                                                                 << 16;
  std::memcpy(to, &both, sizeof(both));
}

#ifdef __AMX_BF16__

// Tiles 0-3 hold sums of two rows by two columns of tiles, 4 and 5 left, 6 and 7 right operands.
template <int kHigh, int kWide>
inline void bf16_block(const Bf16Left& left, int64_t row_tile, int64_t depth_tiles,
                       const Bf16Right& right, int64_t column, float* out, int64_t out_stride,
                       bool accumulate) {
  const int64_t out_bytes = out_stride * 4, left_bytes = left.row * 2,
                right_bytes = right.stride * 2;
  float* below = out + kTileRows * out_stride;
  asm volatile("" ::: "memory");  // GCC does not know that tile loads read memory
  if (accumulate) {
    _tile_loadd(0, out, out_bytes);
    if constexpr (kWide > 1) _tile_loadd(1, out + 16, out_bytes);
    if constexpr (kHigh > 1) _tile_loadd(2, below, out_bytes);
    if constexpr (kHigh > 1 && kWide > 1) _tile_loadd(3, below + 16, out_bytes);
  } else {
    _tile_zero(0);
    if constexpr (kWide > 1) _tile_zero(1);
    if constexpr (kHigh > 1) _tile_zero(2);
    if constexpr (kHigh > 1 && kWide > 1) _tile_zero(3);
  }
  const bfloat16* columns = right.data + 2 * column;
  for (int64_t k = 0; k < depth_tiles; ++k, columns += kTileRows * right.stride) {
    _tile_loadd(4, left.tile(row_tile, k), left_bytes);
    _tile_loadd(6, columns, right_bytes);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kWide > 1) {
      _tile_loadd(7, columns + 2 * 16, right_bytes);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (kHigh > 1) {
      _tile_loadd(5, left.tile(row_tile + 1, k), left_bytes);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (kWide > 1) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, out, out_bytes);
  if constexpr (kWide > 1) _tile_stored(1, out + 16, out_bytes);
  if constexpr (kHigh > 1) _tile_stored(2, below, out_bytes);
  if constexpr (kHigh > 1 && kWide > 1) _tile_stored(3, below + 16, out_bytes);
  asm volatile("" ::: "memory");
}

// One row of tiles by four columns: tiles 0-3 hold sums, 4 the left operand, which comes from L2
// and so is read only once, 5-7 the right ones, which stay in L1.
inline void bf16_row_block(const Bf16Left& left, int64_t row_tile, int64_t depth_tiles,
                           const Bf16Right& right, int64_t column, float* out, int64_t out_stride,
                           bool accumulate) {
  const int64_t out_bytes = out_stride * 4, left_bytes = left.row * 2,
                right_bytes = right.stride * 2;
  asm volatile("" ::: "memory");
  if (accumulate) {
    _tile_loadd(0, out, out_bytes);
    _tile_loadd(1, out + 16, out_bytes);
    _tile_loadd(2, out + 32, out_bytes);
    _tile_loadd(3, out + 48, out_bytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  const bfloat16* columns = right.data + 2 * column;
  for (int64_t k = 0; k < depth_tiles; ++k, columns += kTileRows * right.stride) {
    _tile_loadd(4, left.tile(row_tile, k), left_bytes);
    _tile_loadd(5, columns, right_bytes);
    _tile_dpbf16ps(0, 4, 5);
    _tile_loadd(6, columns + 2 * 16, right_bytes);
    _tile_dpbf16ps(1, 4, 6);
    _tile_loadd(7, columns + 4 * 16, right_bytes);
    _tile_dpbf16ps(2, 4, 7);
    _tile_loadd(5, columns + 6 * 16, right_bytes);
    _tile_dpbf16ps(3, 4, 5);
  }
  _tile_stored(0, out, out_bytes);
  _tile_stored(1, out + 16, out_bytes);
  _tile_stored(2, out + 32, out_bytes);
  _tile_stored(3, out + 48, out_bytes);
  asm volatile("" ::: "memory");
}

// Tiles have 16 rows of 64 bytes; the configuration belongs to the thread.
inline void bf16_begin() {
  struct alignas(64) Configuration {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes_per_row[16] = {};
    uint8_t rows[16] = {};
  } c;
  for (int tile = 0; tile < 8; ++tile) c.bytes_per_row[tile] = 64, c.rows[tile] = 16;
  asm volatile("" : : "r"(&c) : "memory");  // nor does it know that the configuration is read
  _tile_loadconfig(&c);
}
inline void bf16_end() {
  _tile_release();
}
constexpr int kWidestBlock = 2;

#else

template <int kHigh, int kWide>
inline void bf16_block(const Bf16Left& left, int64_t row_tile, int64_t depth_tiles,
                       const Bf16Right& right, int64_t column, float* out, int64_t out_stride,
                       bool accumulate) {
  constexpr int kRows = 4;
  for (int row = 0; row < kHigh * kTileRows; row += kRows, out += kRows * out_stride) {
    __m512 sums[kRows][kWide];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < kWide; ++v)
        sums[r][v] =
            accumulate ? _mm512_loadu_ps(out + r * out_stride + v * 16) : _mm512_setzero_ps();
    const bfloat16* columns = right.data + 2 * column;
    for (int64_t k = 0; k < depth_tiles; ++k) {
      const bfloat16* rows = left.tile(row_tile + row / kTileRows, k) + row % kTileRows * left.row;
      for (int pair = 0; pair < kTileDepth / 2; ++pair, columns += right.stride) {
        __m512bh values[kWide];
#pragma GCC unroll 4
        for (int v = 0; v < kWide; ++v) std::memcpy(&values[v], columns + v * 2 * 16, 64);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
          int32_t both;
          std::memcpy(&both, rows + r * left.row + 2 * pair, 4);
#pragma GCC unroll 4
          for (int v = 0; v < kWide; ++v)
            sums[r][v] = _mm512_dpbf16_ps(sums[r][v], (__m512bh)_mm512_set1_epi32(both), values[v]);
        }
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < kWide; ++v) _mm512_storeu_ps(out + r * out_stride + v * 16, sums[r][v]);
  }
}

inline void bf16_begin() {}
inline void bf16_end() {}
constexpr int kWidestBlock = 4;

#endif

template <int kWide>
inline void bf16_columns(const Bf16Left& left, int64_t row_tiles, int64_t depth_tiles,
                         const Bf16Right& right, int64_t column, float* out, int64_t out_stride,
                         bool accumulate) {
  int64_t r = 0;
  float* to = out + column;
  for (; r + 2 <= row_tiles; r += 2, to += 2 * kTileRows * out_stride)
    bf16_block<2, kWide>(left, r, depth_tiles, right, column, to, out_stride, accumulate);
  if (r < row_tiles)
    bf16_block<1, kWide>(left, r, depth_tiles, right, column, to, out_stride, accumulate);
}

// out (16 * row_tiles, 16 * vectors) = or += left x right
__attribute__((noinline)) inline void bf16_product(const Bf16Left& left, int64_t row_tiles,
                                                   int64_t depth_tiles, const Bf16Right& right,
                                                   int64_t vectors, float* out, int64_t out_stride,
                                                   bool accumulate) {
  int64_t v = 0;
#ifdef __AMX_BF16__
  for (; v + 4 <= vectors; v += 4)
    for (int64_t r = 0; r < row_tiles; ++r)
      bf16_row_block(left, r, depth_tiles, right, 16 * v, out + r * kTileRows * out_stride + 16 * v,
                     out_stride, accumulate);
#endif
  for (; v + kWidestBlock <= vectors; v += kWidestBlock)
    bf16_columns<kWidestBlock>(left, row_tiles, depth_tiles, right, 16 * v, out, out_stride,
                               accumulate);
  if constexpr (kWidestBlock > 2)
    if (v + 2 <= vectors) {
      bf16_columns<2>(left, row_tiles, depth_tiles, right, 16 * v, out, out_stride, accumulate);
      v += 2;
    }
  if (v < vectors)
    bf16_columns<1>(left, row_tiles, depth_tiles, right, 16 * v, out, out_stride, accumulate);
}

struct Bf16Tiles {
  using Storage = bfloat16;
  using C = float;
  using V = Vec<float>;
  using Probability = bfloat16;  // pairs: [key / 2][query][key % 2]
  static constexpr bool kInPlace = false;
  static constexpr int kTileKeys = 256;      // at most, in a tile of the forward
  static constexpr int kGradientKeys = 128;  // and of the backward
  static constexpr int kChunkKeys = 32;
  static constexpr bool kChunksInPlace = false;
  static constexpr int kKeyStep = kTileDepth;
  static constexpr int kRowStep = kTileDepth;
  static constexpr int kLanes = 16;
  static constexpr int kQueryStep = kTileDepth;

  static V exp2(V x) { return exp2_for_bf16(x); }

  static void begin() { bf16_begin(); }
  static void end() { bf16_end(); }

  static int64_t depth_tiles(int64_t depth) { return ceil_div(depth, kTileDepth); }

  // Rows as tiles [row / 16][depth / 32][16][32].
  using Left = Bf16Left;
  static Left in_place(const bfloat16*, int64_t) { return {}; }
  static int64_t left_bytes(int64_t rows, int64_t depth) {
    return round_up(rows, kRowStep) * depth_tiles(depth) * kTileDepth * sizeof(bfloat16);
  }
  static Left left(const void* copy, int64_t, int64_t depth) {
    return {static_cast<const bfloat16*>(copy), kTileDepth, depth_tiles(depth) * kTileSize,
            kTileSize};
  }
  // begin is a multiple of kRowStep; rows from `end` to the next multiple become zero.
  static void fill_left(const bfloat16* rows, int64_t stride, int64_t begin, int64_t end,
                        int64_t depth, void* copy) {
    const int64_t tiles = depth_tiles(depth);
    bfloat16* to = static_cast<bfloat16*>(copy) + begin / kTileRows * tiles * kTileSize;
    for (int64_t r = begin; r < round_up(end, kRowStep); ++r) {
      bfloat16* row = to + (r - begin) / kTileRows * tiles * kTileSize + r % kTileRows * kTileDepth;
      for (int64_t k = 0; k < tiles; ++k, row += kTileSize) {
        const int64_t n = r < end ? smaller<int64_t>(kTileDepth, depth - k * kTileDepth) : 0;
        if (n == kTileDepth) {
          std::memcpy(row, rows + (r - begin) * stride + k * kTileDepth, 2 * kTileDepth);
          continue;
        }
        std::memset(row, 0, 2 * kTileDepth);
        if (n > 0) std::memcpy(row, rows + (r - begin) * stride + k * kTileDepth, 2 * n);
      }
    }
  }

  // The same rows as columns, in tiles [row / 32][depth / 16][16][32].
  using Transposed = Bf16Left;
  static int64_t transposed_bytes(int64_t rows, int64_t depth) {
    return round_up(rows, kTileDepth) * padded_features(depth) * sizeof(bfloat16);
  }
  static Transposed transposed(const void* copy, int64_t, int64_t depth) {
    return {static_cast<const bfloat16*>(copy), kTileDepth, kTileSize,
            padded_features(depth) * kTileDepth};
  }
  static void fill_transposed(const bfloat16* rows, int64_t stride, int64_t begin, int64_t end,
                              int64_t depth, bool finite_only, void* copy) {
    bfloat16* to = static_cast<bfloat16*>(copy) + begin * padded_features(depth);
    for (int64_t r = begin; r < end; r += kTileDepth, rows += kTileDepth * stride) {
      const int height = static_cast<int>(smaller<int64_t>(kTileDepth, end - r));
      int64_t f = 0;
      if (height == kTileDepth && !finite_only)
        for (; f + 2 * kTileRows <= depth; f += 2 * kTileRows, to += 2 * kTileSize) {
          alignas(64) bfloat16 pairs[2 * kTileSize];
          for (int i = 0; i < kTileDepth; i += 2)
            store_wide_row_pair(rows + i * stride + f, rows + (i + 1) * stride + f,
                                pairs + i * 2 * kTileRows);
          transpose(pairs, 2 * kTileRows, kTileDepth / 2, 2 * kTileRows, to, kTileDepth / 2);
        }
      for (; f < depth; f += kTileRows, to += kTileSize)
        transpose_tile(rows + f, stride, height,
                       static_cast<int>(smaller<int64_t>(kTileRows, depth - f)), finite_only, to);
    }
  }

  // Query rows as pairs of depth, and zeros from `rows` on to the end of a vector.
  static int64_t right_bytes(int64_t depth) {
    return depth_tiles(depth) * kTileDepth * kQueries * sizeof(bfloat16);
  }
  static void fill_right(const bfloat16* from, int64_t stride, int rows, int64_t depth,
                         void* right) {
    bfloat16* to = static_cast<bfloat16*>(right);
    if (rows % kLanes || depth % kTileDepth)
      zero_vectors(static_cast<float*>(right), depth_tiles(depth) * kTileDepth / 2, 0,
                   static_cast<int>(ceil_div(rows, kLanes)));
    int row = 0;
    int64_t whole = 0;
    if (stride % 2 == 0) {
      row = rows / 4 * 4;
      whole = depth / 8 * 8;
      transpose(from, stride / 2, row, whole / 2, to, kQueries);
    }
    for (int r = 0; r < rows; ++r)
      for (int64_t k = r < row ? whole : 0; k < depth; ++k)
        to[(k / 2 * kQueries + r) * 2 + k % 2] = from[r * stride + k];
  }

  static void scores(const Left& left, int64_t first, int keys, int64_t depth, const void* right,
                     int begin, int end, float* out) {
    const Left rows{left.tile(first / kTileRows, 0), left.row, left.row_tile, left.depth_tile};
    const int column = begin * kLanes;
    bf16_product(rows, ceil_div(keys, kTileRows), depth_tiles(depth),
                 {static_cast<const bfloat16*>(right) + 2 * column, 2 * kQueries}, end - begin,
                 out + column, kQueries, false);
  }

  static int64_t probability_bytes() { return kTileKeys * kQueries * sizeof(bfloat16); }
  static bfloat16* probabilities(float*, void* memory) { return static_cast<bfloat16*>(memory); }
  static void store_pair(bfloat16* to, int row, int column, V first, V second) {
    _mm512_storeu_si512(to + row * kQueries + 2 * column, bf16_pairs(first, second));
  }
  static float probability(const bfloat16* p, int key, int query) {
    return widen(p[(key / 2 * kQueries + query) * 2 + key % 2]);
  }

  static void accumulate(const Transposed& left, int64_t first, int keys, int64_t features,
                         const bfloat16* p, int vectors, float* out, bool add) {
    const Left columns{left.tile(0, first / kTileDepth), left.row, left.row_tile, left.depth_tile};
    bf16_product(columns, padded_features(features) / kTileRows, depth_tiles(keys),
                 {p, 2 * kQueries}, vectors, out, kQueries, add);
  }

  // to (queries, features) = the transposed columns (features, kQueries), each column times its
  // scale, rounded.
  static void store_rows(const float* columns, const float* scale, int queries, int64_t features,
                         float* rows, bfloat16* to, int64_t stride) {
    if (features % 8 || queries % 4 || stride % 2) {
      rows_from_columns(columns, scale, queries, features, rows, to, stride);
      return;
    }
    constexpr int kStrip = 16;  // pairs of features
    alignas(64) bfloat16 pairs[kStrip * 2 * kQueries];
    for (int64_t f = 0; f < features; f += 2 * kStrip) {
      const int64_t height = smaller<int64_t>(kStrip, (features - f) / 2);
      for (int64_t i = 0; i < height; ++i)
        for (int q = 0; q < queries; q += kLanes) {
          const float* at = columns + (f + 2 * i) * kQueries + q;
          const V by = load(scale + q);
          _mm512_store_si512(pairs + (i * kQueries + q) * 2,
                             bf16_pairs(load(at) * by, load(at + kQueries) * by));
        }
      transpose(pairs, kQueries, height, queries, to + f, stride / 2);
    }
  }

  // ---- the backward's ----

  // Query rows as pairs of queries [query / 2][feature][2].
  using Right = Bf16Right;
  static int64_t padded_features(int64_t depth) { return round_up(depth, kTileRows); }
  static int64_t rows_bytes(int64_t depth) {
    return kQueries * padded_features(depth) * sizeof(bfloat16);
  }
  static Right rows(const bfloat16*, int64_t, int64_t depth, const void* copy) {
    return {static_cast<const bfloat16*>(copy), 2 * padded_features(depth)};
  }
  static void fill_rows(const bfloat16* from, int64_t stride, int rows, int64_t depth, void* copy) {
    const int64_t padded = padded_features(depth);
    bfloat16* to = static_cast<bfloat16*>(copy);
    if (rows % kQueryStep || depth < padded)
      std::memset(to, 0, round_up(rows, kQueryStep) * padded * sizeof(bfloat16));
    const int64_t whole = depth / kLanes * kLanes;
    for (int r = 0; r < rows; r += 2, to += 2 * padded) {
      const bfloat16* first = from + r * stride;
      int64_t f = 0;
      if (r + 1 < rows)
        for (; f + 32 <= depth; f += 32)
          store_wide_row_pair(first + f, first + stride + f, to + 2 * f);
      if (r + 1 < rows)
        for (; f < whole; f += kLanes) store_row_pair(first + f, first + stride + f, to + 2 * f);
      for (; f < depth; ++f) {
        to[2 * f] = first[f];
        if (r + 1 < rows) to[2 * f + 1] = first[stride + f];
      }
    }
  }

  // P^T and dS^T as left operands, rows of kQueries; dS^T also as pairs of keys.
  struct Gradients {
    bfloat16 *p, *ds, *ds_pairs;
  };
  static constexpr int64_t kGradientTile = kGradientKeys * kQueries;
  static int64_t gradient_bytes() { return 3 * kGradientTile * sizeof(bfloat16); }
  static Gradients gradients(float*, float*, void* memory) {
    bfloat16* p = static_cast<bfloat16*>(memory);
    return {p, p + kGradientTile, p + 2 * kGradientTile};
  }
  static void store_p(const Gradients& g, int row, int column, V first, V second) {
    store(g.p + row * kQueries + column, first);
    store(g.p + (row + 1) * kQueries + column, second);
  }
  static void store_ds(const Gradients& g, int row, int column, V first, V second) {
    store(g.ds + row * kQueries + column, first);
    store(g.ds + (row + 1) * kQueries + column, second);
    store_pair(g.ds_pairs, row, column, first, second);
  }
  static const bfloat16* ds_probability(const Gradients& g) { return g.ds_pairs; }

  static void multiply_p(const Gradients& g, int keys, int queries, const Right& right,
                         int64_t depth, float* out, int64_t stride, bool add) {
    multiply(g.p, keys, queries, right, depth, out, stride, add);
  }
  static void multiply_ds(const Gradients& g, int keys, int queries, const Right& right,
                          int64_t depth, float* out, int64_t stride, bool add) {
    multiply(g.ds, keys, queries, right, depth, out, stride, add);
  }

 private:
  static void multiply(const bfloat16* left, int keys, int queries, const Right& right,
                       int64_t depth, float* out, int64_t stride, bool add) {
    bf16_product({left, kQueries, kTileRows * kQueries, kTileDepth}, ceil_div(keys, kTileRows),
                 depth_tiles(queries), right, padded_features(depth) / kLanes, out, stride, add);
  }

  // A tile of `height` rows by `width` columns, transposed; the rest of the tile becomes zero.
  static void transpose_tile(const bfloat16* rows, int64_t stride, int height, int width,
                             bool finite_only, bfloat16* to) {
    std::memset(to, 0, kTileSize * sizeof(bfloat16));
    for (int r = 0; r < height; ++r)
      for (int c = 0; c < width; ++c) {
        const bfloat16 x = rows[r * stride + c];
        constexpr uint16_t kExponent = 0x7f80;  // all ones: infinite or NaN
        if (!finite_only || (x.bits & kExponent) != kExponent) to[c * kTileDepth + r] = x;
      }
  }
};

}  // namespace SEQKERN_ISA
}  // namespace seqkern

#endif  // __AVX512BF16__
