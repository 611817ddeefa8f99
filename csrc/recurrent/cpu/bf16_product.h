// Recurrent products of bfloat16 operands with float sums, by AVX512-BF16 dot products or AMX
// tiles.
//
// Both read one packed layout, [block][depth / 32][vector][16 pairs][16 columns][2]: 16 pairs of 16
// columns are 1 KiB, one AMX tile. Depth is padded to a multiple of 32 with zeros, in the weights
// and, where it is needed, in a copy of A.
#pragma once

#include "recurrent/cpu/packing.h"

#ifdef __AVX512BF16__

namespace seqkern {
namespace SEQKERN_ISA {

constexpr int kPairs = 16;                      // pairs of depth in a tile
constexpr int kTileDepth = 2 * kPairs;          // 32
constexpr int64_t kTileSize = 16 * kTileDepth;  // bfloat16 numbers in a tile
constexpr int64_t kLineSize = kLineBytes / 2;   // bfloat16 numbers in a cache line

struct Bf16Layout {
  using Storage = bfloat16;
  using C = float;
  using Weight = bfloat16;
  using Operand = bfloat16;
  static constexpr int kColumnVectors =
      2;  // of a block of the backward product and of the projections
  static constexpr int kLanes = 16;

  static constexpr bool copies_operand(int64_t depth) { return depth % kTileDepth != 0; }
  static int64_t operand_stride(int64_t depth) { return round_up(depth, kTileDepth); }
  static void convert_operand(const bfloat16* from, int64_t stride, int64_t rows, int64_t depth,
                              bfloat16* to) {
    const int64_t padded = operand_stride(depth);
    for (int64_t r = 0; r < rows; ++r) {
      std::memcpy(to + r * padded, from + r * stride, depth * sizeof(bfloat16));
      std::memset(to + r * padded + depth, 0, (padded - depth) * sizeof(bfloat16));
    }
  }

  static int64_t block_size(int64_t depth, int vectors) {
    return operand_stride(depth) / kTileDepth * vectors * kTileSize;
  }

  template <int kGates, int kVectors>
  static void pack_block(const WeightView<bfloat16>& w, int64_t block, bfloat16* to) {
    constexpr int kUnitVectors = kVectors / kGates;
    constexpr int kUnits = kUnitVectors * kLanes;
    const int64_t first = block * kUnits;
    const int64_t units = smaller<int64_t>(kUnits, w.units - first);
    if (units < kUnits || w.depth % kTileDepth)
      std::memset(to, 0, block_size(w.depth, kVectors) * sizeof(bfloat16));
    for (int64_t k = 0; k < w.depth; k += kTileDepth)
      for (int v = 0; v < kVectors; ++v, to += kTileSize) {
        const int64_t unit = v % kUnitVectors * kLanes;
        const int columns = static_cast<int>(smaller<int64_t>(kLanes, units - unit));
        const int depth = static_cast<int>(smaller<int64_t>(kTileDepth, w.depth - k));
        if (columns > 0)
          pack_tile(w.data + v / kUnitVectors * w.gate_stride + (first + unit) * w.unit_stride +
                        k * w.k_stride,
                    w.k_stride, w.unit_stride, depth, columns, to);
      }
  }

 private:
  static void pack_tile(const bfloat16* from, int64_t k_stride, int64_t unit_stride, int depth,
                        int columns, bfloat16* to) {
    if (k_stride == 1 && depth == kTileDepth && columns == kLanes && unit_stride % 2 == 0) {
      // A pair along depth is one 32-bit number in both layouts.
      for (int u = 0; u < kLanes; u += 4)
        for (int pair = 0; pair < kPairs; pair += 4)
          transpose_4x4(from + u * unit_stride + 2 * pair, unit_stride / 2,
                        to + (pair * kLanes + u) * 2, kLanes);
      return;
    }
    if (unit_stride == 1 && depth == kTileDepth && columns == kLanes) {
      // Two rows of depth become the low and high halves of 32-bit numbers.
      for (int pair = 0; pair < kPairs; ++pair) {
        Bits16 low, high;
        std::memcpy(&low, from + 2 * pair * k_stride, sizeof(low));
        std::memcpy(&high, from + (2 * pair + 1) * k_stride, sizeof(high));
        const Bits32 both =
            __builtin_convertvector(low, Bits32) | __builtin_convertvector(high, Bits32) << 16;
        std::memcpy(to + pair * 2 * kLanes, &both, sizeof(both));
      }
      return;
    }
    for (int k = 0; k < depth; ++k)
      for (int u = 0; u < columns; ++u)
        to[(k / 2 * kLanes + u) * 2 + k % 2] = from[k * k_stride + u * unit_stride];
  }
};

#ifndef __AMX_BF16__

// Multiplies by vdpbf16ps: each lane adds a pair of products to a float sum.
struct PackedBf16 : Bf16Layout {
  static constexpr int kChunkRows = 48;
  static constexpr bool kEvenChunks = false;
  static void begin() {}
  static void end() {}

  template <int kGates, int kVectors>
  static void multiply(const bfloat16* a, int64_t a_stride, int64_t rows,
                       const WeightView<bfloat16>& view, const bfloat16* packed, int64_t block,
                       int64_t next, float* out) {
    const bfloat16* w = packed + block * block_size(view.depth, kVectors);
    const bfloat16* ahead = packed + next * block_size(view.depth, kVectors);
    constexpr int kTileRows = kVectors == 4 ? 6 : 8;
    int64_t tiles = ceil_div(rows, kTileRows);
    for (int64_t row = 0; row < rows; --tiles) {
      const int64_t height = ceil_div(rows - row, tiles);
      tile_of<kTileRows, kVectors>(height, a + row * a_stride, a_stride, view.depth, w,
                                   out + row * kVectors * kLanes, ahead);
      row += height;
      ahead += ceil_div(view.depth, 2) * kLineSize;
    }
  }

 private:
  template <int kRows, int kVectors>
  static void tile_of(int64_t rows, const bfloat16* a, int64_t a_stride, int64_t depth,
                      const bfloat16* w, float* out, const bfloat16* ahead) {
    if (rows == kRows) return tile<kRows, kVectors>(a, a_stride, depth, w, out, ahead);
    if constexpr (kRows > 1) tile_of<kRows - 1, kVectors>(rows, a, a_stride, depth, w, out, ahead);
  }

  template <int kRows, int kVectors>
  static void tile(const bfloat16* a, int64_t a_stride, int64_t depth, const bfloat16* w,
                   float* out, const bfloat16* ahead) {
    __m512 sums[kRows][kVectors];
#pragma GCC unroll 64
    for (int i = 0; i < kRows * kVectors; ++i) (&sums[0][0])[i] = _mm512_setzero_ps();
    for (int64_t k = 0; k < depth; k += kTileDepth, w += kVectors * kTileSize)
      for (int pair = 0; pair < kPairs; ++pair) {
        __m512bh weights[kVectors];
        if constexpr (kRows > 2) prefetch_far(ahead + (k / 2 + pair) * kLineSize);
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v)
          std::memcpy(&weights[v], w + v * kTileSize + pair * 2 * kLanes, 64);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
          int32_t value;
          std::memcpy(&value, a + r * a_stride + k + 2 * pair, 4);
          const __m512bh values = (__m512bh)_mm512_set1_epi32(value);
#pragma GCC unroll 8
          for (int v = 0; v < kVectors; ++v)
            sums[r][v] = _mm512_dpbf16_ps(sums[r][v], values, weights[v]);
        }
      }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v)
        _mm512_storeu_ps(out + (r * kVectors + v) * kLanes, sums[r][v]);
  }
};

#else

// Multiplies by AMX: tiles of 16 x 16 float sums.
struct PackedBf16 : Bf16Layout {
  static constexpr int kChunkRows = 32;
  static constexpr bool kEvenChunks = true;  // another number of rows is another configuration

  static void begin() { configured_rows() = -1; }
  static void end() { _tile_release(); }

  template <int kGates, int kVectors>
  static void multiply(const bfloat16* a, int64_t a_stride, int64_t rows,
                       const WeightView<bfloat16>& view, const bfloat16* packed, int64_t block,
                       int64_t next, float* out) {
    const bfloat16* w = packed + block * block_size(view.depth, kVectors);
    configure(static_cast<int>(rows));
    asm volatile("" ::: "memory");  // nor do the tile loads, that they read memory
    const int64_t tiles = operand_stride(view.depth) / kTileDepth;
    if (rows <= 16)
      one_high<kVectors>(a, a_stride, tiles, w, out);
    else
      two_high<kVectors, 0>(a, a_stride, tiles, w, out,
                            packed + next * block_size(view.depth, kVectors));
  }

 private:
  // Loading a tile configuration costs about as much as a small product, so it is kept while the
  // number of rows stays.
  static int& configured_rows() {
    static thread_local int rows = -1;
    return rows;
  }

  // Tiles 0-3 hold sums, 4 and 5 rows of A, 6 and 7 weights. Sums 0 and 1 and A's tile 4 have the
  // first 16 rows; sums 2 and 3 and A's tile 5 the rows from the 16th on. With 16 rows at most, all
  // four sums belong to the first (and only) rows.
  static void configure(int rows) {
    if (configured_rows() == rows) return;
    struct alignas(64) Configuration {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes_per_row[16] = {};
      uint8_t rows[16] = {};
    } c;
    const int first = rows < 16 ? rows : 16, second = rows <= 16 ? first : rows - 16;
    for (int tile = 0; tile < 8; ++tile) c.bytes_per_row[tile] = 64;
    c.rows[0] = c.rows[1] = c.rows[4] = first;
    c.rows[2] = c.rows[3] = c.rows[5] = second;
    c.rows[6] = c.rows[7] = 16;
    asm volatile(""
                 :
                 : "r"(&c)
                 : "memory");  // the intrinsic does not tell the compiler that it reads all of c
    _tile_loadconfig(&c);
    configured_rows() = rows;
  }

  template <int kVectors>
  static void one_high(const bfloat16* a, int64_t a_stride, int64_t tiles, const bfloat16* w,
                       float* out) {
    _tile_zero(0);
    if constexpr (kVectors > 1) _tile_zero(1);
    if constexpr (kVectors > 2) _tile_zero(2);
    if constexpr (kVectors > 3) _tile_zero(3);
    for (int64_t k = 0; k < tiles; ++k, w += kVectors * kTileSize) {
      _tile_loadd(4, a + k * kTileDepth, a_stride * 2);
      _tile_loadd(6, w, 64);
      _tile_dpbf16ps(0, 4, 6);
      if constexpr (kVectors > 1) {
        _tile_loadd(7, w + kTileSize, 64);
        _tile_dpbf16ps(1, 4, 7);
      }
      if constexpr (kVectors > 2) {
        _tile_loadd(6, w + 2 * kTileSize, 64);
        _tile_dpbf16ps(2, 4, 6);
      }
      if constexpr (kVectors > 3) {
        _tile_loadd(7, w + 3 * kTileSize, 64);
        _tile_dpbf16ps(3, 4, 7);
      }
    }
    constexpr int kStride = kVectors * kLanes * 4;
    _tile_stored(0, out, kStride);
    if constexpr (kVectors > 1) _tile_stored(1, out + kLanes, kStride);
    if constexpr (kVectors > 2) _tile_stored(2, out + 2 * kLanes, kStride);
    if constexpr (kVectors > 3) _tile_stored(3, out + 3 * kLanes, kStride);
  }

  // 17 to 32 rows: two vectors of columns at a time, so that two rows of tiles times two columns of
  // tiles fill the sums. The same tiles of the block that comes next are prefetched.
  template <int kVectors, int kFirst>
  static void two_high(const bfloat16* a, int64_t a_stride, int64_t tiles, const bfloat16* w,
                       float* out, const bfloat16* next) {
    constexpr bool kPair = kFirst + 1 < kVectors;
    _tile_zero(0);
    _tile_zero(2);
    if constexpr (kPair) _tile_zero(1);
    if constexpr (kPair) _tile_zero(3);
    const bfloat16* tile = w + kFirst * kTileSize;
    for (int64_t k = 0; k < tiles; ++k, tile += kVectors * kTileSize) {
      _tile_loadd(4, a + k * kTileDepth, a_stride * 2);
      _tile_loadd(5, a + 16 * a_stride + k * kTileDepth, a_stride * 2);
      const bfloat16* ahead = next + (k * kVectors + kFirst) * kTileSize;
      for (int line = 0; line < (kPair ? 32 : 16); ++line) prefetch_far(ahead + line * kLineSize);
      _tile_loadd(6, tile, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (kPair) {
        _tile_loadd(7, tile + kTileSize, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
      }
    }
    constexpr int kRow = kVectors * kLanes, kStride = kRow * 4;
    _tile_stored(0, out + kFirst * kLanes, kStride);
    _tile_stored(2, out + 16 * kRow + kFirst * kLanes, kStride);
    if constexpr (kPair) {
      _tile_stored(1, out + (kFirst + 1) * kLanes, kStride);
      _tile_stored(3, out + 16 * kRow + (kFirst + 1) * kLanes, kStride);
    }
    if constexpr (kFirst + 2 < kVectors)
      two_high<kVectors, kFirst + 2>(a, a_stride, tiles, w, out, next);
  }
};

#endif  // __AMX_BF16__

}  // namespace SEQKERN_ISA
}  // namespace seqkern

#endif  // __AVX512BF16__
