// What the matrix product (matmul_cpu.cpp) and its kernels (compiled once per ISA level) agree on.
#pragma once

#include <cstdint>

#include "common/barrier.h"
#include "common/storage.h"

namespace seqkern {

// A matrix; strides are in elements.
struct MatrixView {
  const void* data;
  int64_t rows, columns, row_stride, column_stride;
};

// out (a.rows x b.columns) = a * b, or out += a * b.
struct MatmulArgs {
  MatrixView a, b;  // each contiguous along its rows or along its columns
  void* out;        // contiguous along its rows
  int64_t out_stride;
  bool add;
  // Room for b in the order of the product: a block of its rows, or with `keep` all of it, which
  // other products with the same b may then find `packed`.
  void* packed_b;
  bool keep, packed;
  // Room for columns of a, packed_a_bytes for every slot; not used where a's rows are contiguous.
  void* packed_a;
  int slots;
};

// Slots [begin, end) of a product's slots, as in the recurrent kernels.
using MatmulKernel = void (*)(const MatmulArgs&, int begin, int end, Barrier&);

struct MatmulKernels {
  MatmulKernel run;
  int64_t (*packed_b_bytes)(int64_t depth, int64_t columns, bool keep);
  int64_t packed_a_bytes;
  bool wide;  // vectors of 64 bytes
};

// The kernels of the ISA level in use, for float and double.
const MatmulKernels& matmul_kernels(Storage storage);

}  // namespace seqkern
