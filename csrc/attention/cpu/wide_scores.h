// Scores of few queries whose products are summed in double.
//
// A query's scores by a matrix product of many queries are chains of dim additions; PyTorch's, of a
// single query, are a vector of shorter chains and so nearer to the reference. In double they are
// as near as a float can be. The multiplications cost the same: a vector of doubles holds all
// queries.
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

// out (keys, kQueries) = rows (keys, depth) x right (depth, kQueries) for the first kWideColumns
// columns, and 0 up to `columns`.
inline void wide_scores(const float* rows, int64_t stride, int keys, int64_t depth,
                        const float* right, int columns, double* scratch, float* out) {
  double* const left = scratch;
  double* const columns_of_right = left + kWideRows * depth;
  double* const sums = columns_of_right + depth * kWideColumns;
  for (int64_t k = 0; k < depth; ++k)
    for (int q = 0; q < kWideColumns; ++q)
      columns_of_right[k * kWideColumns + q] = right[k * kQueries + q];
  for (int first = 0; first < keys; first += kWideRows) {
    const int n = smaller(kWideRows, keys - first);
    for (int r = 0; r < n; ++r)
      for (int64_t k = 0; k < depth; ++k) left[r * depth + k] = rows[(first + r) * stride + k];
    product_inline<false>(n, left, depth, depth, columns_of_right, kWideColumns,
                          kWideColumns / Vec<double>::kLanes, sums, kWideColumns, false);
    for (int r = 0; r < n; ++r) {
      float* to = out + (first + r) * kQueries;
      for (int q = 0; q < kWideColumns; ++q) to[q] = static_cast<float>(sums[r * kWideColumns + q]);
      for (int q = kWideColumns; q < columns; ++q) to[q] = 0;
    }
  }
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
