// The tile of a matrix product by FMA, in the compute type: what the recurrent products and the
// plain product (matmul_isa.cpp) are made of.
//
// A tile is a few rows of A times a panel: a few vectors of columns of W, row by row of W (by k),
// so that the panel is read once, in order, for each tile.
#pragma once

#include "common/blocks.h"

namespace seqkern {
namespace SEQKERN_ISA {

// How many cache lines of what comes next a tile prefetches per k. Low tiles come in ones or twos,
// so each has more to fetch; with one or two rows the loads themselves already take all the
// bandwidth there is.
constexpr int ahead_lines(int rows) {
  return rows > 4 ? 1 : rows > 2 ? 2 : 0;
}

// Where to prefetch ahead_lines(rows) cache lines per k from; with the stride 0 from one place
// only, which is as good as nothing.
struct Ahead {
  const char* from;
  int64_t stride;
};

// With few sums in flight FMA latency would show, so k may be split over so many independent sums.
constexpr int fma_phases(int rows, int vectors) {
  return rows * vectors >= 8 ? 1 : rows * vectors >= 4 ? 2 : 4;
}

// Hands finish(r, v) the sum over k of a[r * a_stride + k * a_step] * w[k * w_stride + v * lanes],
// for kRows rows and kVectors vectors, all sums held in registers, kPhases for each.
template <int kRows, int kVectors, int kPhases, class C, class W, class Finish>
__attribute__((always_inline)) inline void fma_tile(const C* a, int64_t a_stride, int64_t a_step,
                                                    int64_t depth, const W* w, int64_t w_stride,
                                                    Ahead ahead, const Finish& finish) {
  using V = Vec<C>;
  V sums[kPhases][kRows][kVectors];
#pragma GCC unroll 64
  for (int i = 0; i < kPhases * kRows * kVectors; ++i) (&sums[0][0][0])[i] = V(C(0));

  const auto accumulate = [&](int64_t k, int phase) __attribute__((always_inline)) {
    V weights[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) weights[v] = load(w + k * w_stride + v * V::kLanes);
    for (int line = 0; line < ahead_lines(kRows); ++line)
      prefetch_far(ahead.from + k * ahead_lines(kRows) * ahead.stride + line * kLineBytes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const V value(a[r * a_stride + k * a_step]);
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
      finish(r, v, total);
    }
}

// The tallest tile whose sums, weights and broadcast value fit the register file.
constexpr int fma_tile_rows(int vectors) {
  const int rows = (kVectorRegisters - vectors - 1) / vectors;
  return rows < 1 ? 1 : rows > 8 ? 8 : rows;
}

// Columns as a tile wants them: to[k * to_stride + u] = from[k * k_stride + u * unit_stride].
template <class S>
__attribute__((noinline)) void copy_columns(const S* from, int64_t k_stride, int64_t unit_stride,
                                            int64_t depth, int64_t units, compute_t<S>* to,
                                            int64_t to_stride) {
  constexpr int64_t kLanes = Vec<compute_t<S>>::kLanes;
  if (unit_stride == 1) {
    for (int64_t k = 0; k < depth; ++k)
      for (int64_t u = 0; u < units; u += kLanes) {
        const int n = static_cast<int>(smaller<int64_t>(kLanes, units - u));
        store_first(to + k * to_stride + u, load_first(from + k * k_stride + u, n), n);
      }
    return;
  }
  int64_t unit = 0;
  if constexpr (sizeof(S) == 4) {
    if (k_stride == 1 && depth % 4 == 0) {
      unit = units / 4 * 4;
      transpose(from, unit_stride, unit, depth, to, to_stride);
    }
  }
  for (int64_t k = 0; k < depth; ++k)
    for (int64_t u = unit; u < units; ++u)
      to[k * to_stride + u] = widen(from[k * k_stride + u * unit_stride]);
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
