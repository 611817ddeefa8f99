// Scores of few queries whose products are summed in double.
//
// A query's scores by a matrix product of many queries are chains of dim additions; PyTorch's, of a
// single query, are a vector of shorter chains and so nearer to the reference. In double they are
// as near as a float can be. With many keys the multiplications cost the same: a vector of doubles
// holds all queries. With few keys that would be mostly empty lanes behind a transposition, and the
// products are taken along the rows instead.
#pragma once

#include "attention/cpu/fma_tiles.h"
#include "attention/cpu/problem.h"

namespace seqkern {
namespace SEQKERN_ISA {

constexpr int kWideColumns = kMostDecodedQueries;
constexpr int kWideRows = 16;  // keys at a time

inline int64_t wide_scores_count(int64_t depth) {  // doubles of scratch
  return kWideRows * depth + depth * kWideColumns + kWideRows * kWideColumns;
}

// As many floats as there are doubles in a vector, and those as doubles.
using FloatsOfDoubles = float __attribute__((vector_size(kVectorBytes / 2), aligned(4)));
inline Vec<double> load_wide(const float* p) {
  return Vec<double>(
      __builtin_convertvector(*reinterpret_cast<const FloatsOfDoubles*>(p), Vec<double>::raw));
}
inline void widen_row(const float* from, int64_t count, double* to) {
  constexpr int kLanes = Vec<double>::kLanes;
  int64_t k = 0;
  for (; k + kLanes <= count; k += kLanes) store(to + k, load_wide(from + k));
  for (; k < count; ++k) to[k] = from[k];
}

// out (keys, kQueries) = rows (keys, depth) x right (depth, kQueries) for the first kWideColumns
// columns, and 0 up to `columns`.
inline void wide_scores(const float* rows, int64_t stride, int keys, int64_t depth,
                        const float* right, int columns, double* scratch, float* out) {
  double* const left = scratch;
  double* const columns_of_right = left + kWideRows * depth;
  double* const sums = columns_of_right + depth * kWideColumns;
  for (int64_t k = 0; k < depth; ++k)
    widen_row(right + k * kQueries, kWideColumns, columns_of_right + k * kWideColumns);
  for (int first = 0; first < keys; first += kWideRows) {
    const int n = smaller(kWideRows, keys - first);
    for (int r = 0; r < n; ++r) widen_row(rows + (first + r) * stride, depth, left + r * depth);
    product_inline<false>(n, left, depth, depth, columns_of_right, kWideColumns,
                          kWideColumns / Vec<double>::kLanes, sums, kWideColumns, false);
    for (int r = 0; r < n; ++r) {
      float* to = out + (first + r) * kQueries;
      for (int q = 0; q < kWideColumns; ++q) to[q] = static_cast<float>(sums[r * kWideColumns + q]);
      for (int q = kWideColumns; q < columns; ++q) to[q] = 0;
    }
  }
}

constexpr int kMostDotKeys = 16;

// The same of rows (keys, depth) and queries, rows too: rows (queries, depth).
inline void wide_dots(const float* rows, int64_t stride, int keys, int64_t depth,
                      const float* queries, int64_t query_stride, int query_count, int columns,
                      float* out) {
  using V = Vec<double>;
  constexpr int kRows = 4, kQueryRows = V::kLanes == 8 ? 4 : 2;  // as many sums as registers hold
  const int64_t whole = depth / V::kLanes * V::kLanes;
  for (int j = 0; j < keys; ++j)
    for (int q = query_count; q < columns; ++q) out[j * kQueries + q] = 0;
  for (int first = 0; first < keys; first += kRows)
    for (int q = 0; q < query_count; q += kQueryRows) {
      // What lies behind the last row is the last row once more.
      const float *left[kRows], *right[kQueryRows];
      for (int i = 0; i < kRows; ++i) left[i] = rows + smaller(first + i, keys - 1) * stride;
      for (int i = 0; i < kQueryRows; ++i)
        right[i] = queries + smaller(q + i, query_count - 1) * query_stride;
      V sums[kRows][kQueryRows];
      for (auto& row : sums)
        for (V& s : row) s = V(0.0);
      for (int64_t k = 0; k < whole; k += V::kLanes) {
        V r[kQueryRows];
        for (int i = 0; i < kQueryRows; ++i) r[i] = load_wide(right[i] + k);
        for (int i = 0; i < kRows; ++i) {
          const V l = load_wide(left[i] + k);
          for (int c = 0; c < kQueryRows; ++c) sums[i][c] += l * r[c];
        }
      }
      for (int i = 0; i < smaller(kRows, keys - first); ++i)
        for (int c = 0; c < smaller(kQueryRows, query_count - q); ++c) {
          double total = sum(sums[i][c]);
          for (int64_t k = whole; k < depth; ++k)
            total += static_cast<double>(left[i][k]) * static_cast<double>(right[c][k]);
          out[(first + i) * kQueries + q + c] = static_cast<float>(total);
        }
    }
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
