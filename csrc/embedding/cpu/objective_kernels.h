// What the operators of word vectors (compiled once) and their kernels (compiled once per ISA
// level) agree on.
//
// "storage" is the dtype of the tables, "compute" float, or double for double.
#pragma once

#include <cstdint>

#include "common/storage.h"

namespace seqkern {

// A batch of examples; seqkern/embedding/reference.py has the equations. Indices have been checked.
struct ObjectiveCall {
  const void *in_weight, *out_weight;  // storage
  int64_t in_stride, out_stride;       // elements from row to row
  int64_t dim;
  const int64_t* inputs;  // (examples, inputs_each)
  int64_t inputs_each;
  const int64_t* targets;    // (examples)
  const int64_t* negatives;  // (examples, terms - 1)
  const int64_t* offsets;    // null: negatives; else word w has places offsets[w] to offsets[w + 1]
  const int32_t* nodes;
  const uint8_t* codes;
  int64_t terms;  // rows of out_weight that an example reads at most
  int64_t padding_idx;
  bool mean;

  void* hidden;        // compute (examples, dim), or null: not wanted
  void* grad_inputs;   // compute (examples, dim): of loss_e for each of its input rows, or null
  void* coefficients;  // compute (examples, terms): sigma(u . h) - label, or null
};

// Sums of rows of `source` for some rows of a table, each in the order of its entries.
struct RowSums {
  const void* source;  // compute, contiguous rows of `dim`
  int64_t dim;
  const uint32_t* entries;  // entry e stands for row owners[e] (or e / per_owner) of source ...
  const uint32_t* owners;   // or null
  uint32_t per_owner;
  const void* weights;     // ... times weights[e] (compute), or 1 where null
  const uint32_t* starts;  // entries[starts[g]] to entries[starts[g + 1]] belong to group g
  const uint32_t* rows;    // the row of the table that group g is for
  double scale;            // of every sum
  void* out;               // storage
  int64_t out_stride;
  int64_t table_rows;  // of a dense gradient
};

// One step of SparseAdam for some rows of a table (Kingma & Ba 2015, algorithm 1, lazily).
struct AdamCall {
  void *weight, *mean, *square;  // storage, contiguous rows of `dim`
  const void* gradient;          // storage (rows, dim)
  const int64_t* rows;
  int64_t dim;
  double beta1, beta2, eps, step_size;
};

struct ObjectiveKernels {
  // Bytes of scratch for each callback.
  int64_t (*scratch_bytes)(const ObjectiveCall&);
  // Examples [begin, end): adds up their losses, and writes what the call wants.
  double (*examples)(const ObjectiveCall&, int64_t begin, int64_t end, char* scratch);
  // Groups [begin, end): sum g becomes row g of out.
  void (*sums_compact)(const RowSums&, int64_t begin, int64_t end);
  // The same, but written to rows[g] of out, and 0 to the rows between: [first, last) of the table.
  void (*sums_dense)(const RowSums&, int64_t begin, int64_t end, int64_t first, int64_t last);
  // The same, but added to rows[g] of out, whose other rows stay as they are.
  void (*sums_added)(const RowSums&, int64_t begin, int64_t end);
  // Vectors [begin, end) of bags: bag w is the sum of the rows bag_rows[offsets[w]:offsets[w + 1]]
  // of weight, divided by their number if `mean`.
  void (*bags)(const void* weight, int64_t stride, int64_t dim, const int64_t* words,
               const int64_t* offsets, const int32_t* bag_rows, bool mean, void* out, int64_t begin,
               int64_t end);
  void (*adam)(const AdamCall&, int64_t begin, int64_t end);
};

// The kernels of the ISA level in use.
const ObjectiveKernels& objective_kernels(Storage storage);

}  // namespace seqkern
