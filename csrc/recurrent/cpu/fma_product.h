// Recurrent products by FMA in the compute type: float and double on every level, bfloat16 where
// there is nothing better.
#pragma once

#include "common/fma_tile.h"
#include "recurrent/cpu/packing.h"

namespace seqkern {
namespace SEQKERN_ISA {

// out[r][v] for kRows rows: see fma_tile. `ahead` is where the next block's weights lie.
template <int kRows, int kVectors, class C, class W>
inline void fma_tile(const C* a, int64_t a_stride, int64_t depth, const W* w, int64_t w_stride,
                     C* out, const char* ahead) {
  using V = Vec<C>;
  fma_tile<kRows, kVectors, fma_phases(kRows, kVectors)>(
      a, a_stride, 1, depth, w, w_stride, Ahead{ahead, kLineBytes},
      [&](int r, int v, V total)
          __attribute__((always_inline)) { store(out + (r * kVectors + v) * V::kLanes, total); });
}

template <int kVectors, class C, class W, int kRows = fma_tile_rows(kVectors)>
inline void fma_tile_of(int64_t rows, const C* a, int64_t a_stride, int64_t depth, const W* w,
                        int64_t w_stride, C* out, const char* ahead) {
  if (rows == kRows) return fma_tile<kRows, kVectors>(a, a_stride, depth, w, w_stride, out, ahead);
  if constexpr (kRows > 1)
    fma_tile_of<kVectors, C, W, kRows - 1>(rows, a, a_stride, depth, w, w_stride, out, ahead);
}

// out (rows x kVectors vectors) = a (rows x depth) * w, the rows cut into tiles of nearly equal
// height. Meanwhile each tile prefetches its part of `next`, the weights that will be wanted after
// these.
template <int kVectors, class C, class W>
inline void fma_rows(int64_t rows, const C* a, int64_t a_stride, int64_t depth, const W* w,
                     int64_t w_stride, C* out, const W* next) {
  const char* ahead = reinterpret_cast<const char*>(next);
  int64_t tiles = ceil_div(rows, fma_tile_rows(kVectors));
  for (int64_t row = 0; row < rows; --tiles) {
    const int64_t height = ceil_div(rows - row, tiles);
    fma_tile_of<kVectors>(height, a + row * a_stride, a_stride, depth, w, w_stride,
                          out + row * kVectors * Vec<C>::kLanes, ahead);
    row += height;
    ahead += depth * ahead_lines(static_cast<int>(height)) * kLineBytes;
  }
}

// Weights packed as [block][k][vector][lane] in the compute type.
template <class S>
struct PackedFma {
  using Storage = S;
  using C = compute_t<S>;
  using Weight = C;
  using Operand = C;  // the type of A's elements as the product reads them
  static constexpr int kLanes = Vec<C>::kLanes;
  static constexpr int kColumnVectors =
      2;  // of a block of the backward product and of the projections
  static constexpr int kChunkRows = 48;  // rows whose block product stays in L1
  static constexpr bool kEvenChunks = false;

  // bfloat16 rows are widened once per step instead of once per block.
  static constexpr bool copies_operand(int64_t) { return !__is_same(S, C); }
  static int64_t operand_stride(int64_t depth) { return depth; }
  static void convert_operand(const S* from, int64_t stride, int64_t rows, int64_t depth,
                              Operand* to) {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t k = 0; k < depth; ++k) to[r * depth + k] = widen(from[r * stride + k]);
  }

  static int64_t block_size(int64_t depth, int vectors) { return depth * vectors * kLanes; }

  template <int kGates, int kVectors>
  static void pack_block(const WeightView<S>& w, int64_t block, Weight* to) {
    constexpr int kUnits = kVectors / kGates * kLanes;
    constexpr int64_t kRow = kVectors * kLanes;
    const int64_t first = block * kUnits;
    const int64_t units = smaller<int64_t>(kUnits, w.units - first);
    if (units < kUnits) std::memset(to, 0, block_size(w.depth, kVectors) * sizeof(Weight));
    // A few k at a time, so that what is written stays in L1 until its lines are
    // full.
    constexpr int64_t kDepth = 16;
    for (int64_t k = 0; k < w.depth; k += kDepth)
      for (int gate = 0; gate < kGates; ++gate)
        copy_columns(w.data + gate * w.gate_stride + first * w.unit_stride + k * w.k_stride,
                     w.k_stride, w.unit_stride, smaller(kDepth, w.depth - k), units,
                     to + k * kRow + gate * kUnits, kRow);
  }

  template <int kGates, int kVectors>
  static void multiply(const Operand* a, int64_t a_stride, int64_t rows, const WeightView<S>& view,
                       const Weight* packed, int64_t block, int64_t next, C* out) {
    const int64_t size = block_size(view.depth, kVectors);
    fma_rows<kVectors>(rows, a, a_stride, view.depth, packed + block * size, kVectors * kLanes, out,
                       packed + next * size);
  }

  static void begin() {}
  static void end() {}
};

}  // namespace SEQKERN_ISA
}  // namespace seqkern
