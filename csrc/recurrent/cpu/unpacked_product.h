// Recurrent products straight from PyTorch's weight layout, for calls of a few rows (a cell, one
// step of streaming), where packing would cost more than the product itself.
#pragma once

#include "recurrent/cpu/fma_product.h"

namespace seqkern {
namespace SEQKERN_ISA {

// out[r * out_stride + g * gate_stride] = dot(a[r], w[g]) over depth, for kRows rows of A and
// kGates rows of W.
template <int kRows, int kGates, class S, class C>
inline void dot_tile(const C* a, int64_t a_stride, int64_t depth, const S* w, int64_t w_stride,
                     C* out, int64_t out_stride, int64_t gate_stride) {
  using V = Vec<C>;
  V sums[kRows][kGates];
#pragma GCC unroll 64
  for (int i = 0; i < kRows * kGates; ++i) (&sums[0][0])[i] = V(C(0));
  int64_t k = 0;
  const auto accumulate = [&](int n) __attribute__((always_inline)) {
    V values[kRows];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) values[r] = load_first(a + r * a_stride + k, n);
#pragma GCC unroll 8
    for (int g = 0; g < kGates; ++g) {
      const V weight = load_first(w + g * w_stride + k, n);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) sums[r][g] += values[r] * weight;
    }
  };
  for (; k + V::kLanes <= depth; k += V::kLanes) accumulate(V::kLanes);
  if (k < depth) accumulate(static_cast<int>(depth - k));
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int g = 0; g < kGates; ++g) out[r * out_stride + g * gate_stride] = sum(sums[r][g]);
}

template <class S>
struct Unpacked {
  using Storage = S;
  using C = compute_t<S>;
  using Weight = S;
  using Operand = C;
  static constexpr int kLanes = Vec<C>::kLanes;
  // Of a block of the backward product and of the projections: wide, for long runs of each row of
  // the weights.
  static constexpr int kColumnVectors = 8;
  static constexpr int kChunkRows = 32;
  static constexpr bool kEvenChunks = false;
  static constexpr bool copies_operand(int64_t depth) {
    return PackedFma<S>::copies_operand(depth);
  }
  static int64_t operand_stride(int64_t depth) { return depth; }
  static void convert_operand(const S* from, int64_t stride, int64_t rows, int64_t depth,
                              Operand* to) {
    PackedFma<S>::convert_operand(from, stride, rows, depth, to);
  }

  template <int kGates, int kVectors>
  static void multiply(const Operand* a, int64_t a_stride, int64_t rows, const WeightView<S>& view,
                       const Weight*, int64_t block, int64_t, C* out) {
    constexpr int kUnits = kVectors / kGates * kLanes;
    const int64_t first = block * kUnits;
    const int units = static_cast<int>(smaller<int64_t>(kUnits, view.units - first));
    const S* w = view.data + first * view.unit_stride;
    if (view.k_stride == 1) {
      // Rows of W are outputs: dot products along contiguous k, all gates of a unit at a time.
      constexpr int64_t kRow = kVectors * kLanes;
      constexpr int kTileRows = 4;
      // What stands past the last unit goes through the cell's arithmetic, which could take a
      // hundred times as long with whatever lies there (denormals).
      if (units < kUnits) std::memset(out, 0, rows * kRow * sizeof(C));
      for (int64_t row = 0; row < rows; row += kTileRows) {
        const int64_t height = smaller<int64_t>(kTileRows, rows - row);
        for (int unit = 0; unit < units; ++unit)
          dot_rows<kTileRows, kGates>(height, a + row * a_stride, a_stride, view.depth,
                                      w + unit * view.unit_stride, view.gate_stride,
                                      out + row * kRow + unit, kRow, kUnits);
      }
    } else if (units == kUnits) {
      // Rows of W are k and its columns contiguous: the same tile as for packed weights, with W's
      // own row stride.
      fma_rows<kVectors>(rows, a, a_stride, view.depth, w, view.k_stride, out, w);
    } else {
      last_columns<kVectors>(a, a_stride, rows, view.depth, w, view.k_stride, units, out);
    }
  }

  static int64_t block_size(int64_t, int) { return 0; }
  template <int kGates, int kVectors>
  static void pack_block(const WeightView<S>&, int64_t, Weight*) {}
  static void begin() {}
  static void end() {}

 private:
  template <int kRows, int kGates>
  static void dot_rows(int64_t rows, const C* a, int64_t a_stride, int64_t depth, const S* w,
                       int64_t w_stride, C* out, int64_t out_stride, int64_t gate_stride) {
    if (rows == kRows)
      return dot_tile<kRows, kGates>(a, a_stride, depth, w, w_stride, out, out_stride, gate_stride);
    if constexpr (kRows > 1)
      dot_rows<kRows - 1, kGates>(rows, a, a_stride, depth, w, w_stride, out, out_stride,
                                  gate_stride);
  }

  // The block that holds W's last, incomplete columns.
  template <int kVectors>
  static void last_columns(const C* a, int64_t a_stride, int64_t rows, int64_t depth, const S* w,
                           int64_t w_stride, int units, C* out) {
    for (int64_t row = 0; row < rows; ++row)
      for (int v = 0; v < kVectors; ++v) {
        const int n = units - v * kLanes;
        Vec<C> total(C(0));
        for (int64_t k = 0; n > 0 && k < depth; ++k)
          total += Vec<C>(a[row * a_stride + k]) * load_first(w + k * w_stride + v * kLanes, n);
        store(out + (row * kVectors + v) * kLanes, total);
      }
  }
};

}  // namespace SEQKERN_ISA
}  // namespace seqkern
