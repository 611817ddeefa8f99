// What the operators of word vectors share (compiled once).
#pragma once

#include "common/tensors.h"
#include "embedding/cpu/objective_kernels.h"
#include "embedding/cpu/row_groups.h"

namespace seqkern {

// The dtype that a table's dtype is computed in.
inline ScalarType compute_dtype(ScalarType dtype) {
  return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// The rows that have a gradient, in rising order, and their gradients.
struct SparseRows {
  Tensor rows;    // int64 (U)
  Tensor values;  // (U, dim)
};

// One gradient of a table (table_rows, dim) of `dtype`; `sums` says of what, groups and out apart.
Tensor dense_sums(RowSums sums, const RowGroups& groups, int64_t table_rows, ScalarType dtype);
SparseRows sparse_sums(RowSums sums, const RowGroups& groups, ScalarType dtype);
void add_sums(RowSums sums, const RowGroups& groups, const Tensor& table);

// (rows, columns), each row of them contiguous.
void check_table(const char* name, const Tensor& table);
// Contiguous indices of a given shape; every entry is in [0, limit) or equals `also`.
void check_indices(const char* name, const Tensor& indices, const Shape& shape, int64_t limit,
                   int64_t also);

}  // namespace seqkern
