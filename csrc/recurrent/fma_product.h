// Recurrent products by FMA in the compute type: float and double on every level, bfloat16 where
// there is nothing better.
#pragma once

#include "recurrent/packing.h"

namespace seqkern {
namespace SEQKERN_ISA {

// How many cache lines of the next block's weights a tile prefetches per k. Low tiles come in ones
// or twos, so each has more to fetch; with one or two rows the loads themselves already take all
// the bandwidth there is.
constexpr int ahead_lines(int rows) {
  return rows > 4 ? 1 : rows > 2 ? 2 : 0;
}

// out[r][v] = sum over k of a[r][k] * w[k][v] for kRows rows and kVectors column vectors, all sums
// held in registers. With few sums in flight FMA latency would show, so k is then split over
// kPhases independent sums. `ahead` is where to prefetch ahead_lines(kRows) cache lines per k from.
template <int kRows, int kVectors, class C, class W>
inline void fma_tile(const C* a, int64_t a_stride, int64_t depth, const W* w, int64_t w_stride,
                     C* out, const char* ahead) {
  using V = Vec<C>;
  constexpr int kPhases = kRows * kVectors >= 8 ? 1 : kRows * kVectors >= 4 ? 2 : 4;
  V sums[kPhases][kRows][kVectors];
#pragma GCC unroll 64
  for (int i = 0; i < kPhases * kRows * kVectors; ++i) (&sums[0][0][0])[i] = V(C(0));

  const auto accumulate = [&](int64_t k, int phase) __attribute__((always_inline)) {
    V weights[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) weights[v] = load(w + k * w_stride + v * V::kLanes);
    for (int line = 0; line < ahead_lines(kRows); ++line)
      prefetch_far(ahead + (k * ahead_lines(kRows) + line) * kLineBytes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const V value(a[r * a_stride + k]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sums[phase][r][v] += value * weights[v];
    }
  };
  int64_t k = 0;
  for (; k + kPhases <= depth; k += kPhases)
#pragma GCC unroll 4
    for (int phase = 0; phase < kPhases; ++phase) accumulate(k + phase, phase);
  for (; k < depth; ++k) accumulate(k, 0);

#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      V total = sums[0][r][v];
#pragma GCC unroll 4
      for (int phase = 1; phase < kPhases; ++phase) total += sums[phase][r][v];
      store(out + (r * kVectors + v) * V::kLanes, total);
    }
}

// The tallest tile whose sums, weights and broadcast value fit the register file.
constexpr int fma_tile_rows(int vectors) {
  const int rows = (kVectorRegisters - vectors - 1) / vectors;
  return rows < 1 ? 1 : rows > 8 ? 8 : rows;
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
  static constexpr int kChunkRows = 48;  // rows whose block product stays in the first-level cache

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
    // A few k at a time, so that what is written stays in the first-level cache until its lines are
    // full.
    constexpr int64_t kDepth = 16;
    for (int64_t k = 0; k < w.depth; k += kDepth)
      for (int gate = 0; gate < kGates; ++gate)
        pack_piece(w.data + gate * w.gate_stride + first * w.unit_stride + k * w.k_stride,
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

 private:
  // to[k * to_stride + u] = from[k * k_stride + u * unit_stride]
  static void pack_piece(const S* from, int64_t k_stride, int64_t unit_stride, int64_t depth,
                         int64_t units, Weight* to, int64_t to_stride) {
    if (unit_stride == 1) {
      for (int64_t k = 0; k < depth; ++k)
        for (int64_t u = 0; u < units; u += kLanes)
          store_first(to + k * to_stride + u,
                      load_first(from + k * k_stride + u,
                                 static_cast<int>(smaller<int64_t>(kLanes, units - u))),
                      static_cast<int>(smaller<int64_t>(kLanes, units - u)));
      return;
    }
    int64_t unit = 0;
    if constexpr (sizeof(S) == 4) {
      if (k_stride == 1 && depth % 4 == 0)
        for (; unit + 4 <= units; unit += 4)
          for (int64_t k = 0; k < depth; k += 4)
            transpose_4x4(from + unit * unit_stride + k, unit_stride, to + k * to_stride + unit,
                          to_stride);
    }
    for (int64_t k = 0; k < depth; ++k)
      for (int64_t u = unit; u < units; ++u)
        to[k * to_stride + u] = widen(from[k * k_stride + u * unit_stride]);
  }
};

}  // namespace SEQKERN_ISA
}  // namespace seqkern
