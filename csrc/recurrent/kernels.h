// What the recurrent operators (compiled once) and their kernels (compiled once per ISA level)
// agree on.
//
// Pointers are untyped because a table of functions serves three storage types. "storage" is the
// tensors' type, "compute" is float for bfloat16 and float and double for double.
#pragma once

#include <cstdint>

#include "common/barrier.h"
#include "common/storage.h"

namespace seqkern {

enum class Cell { kLstm, kGru, kRnnTanh, kRnnRelu };
constexpr int kCells = 4;

// Steps in the order of processing (a reversed sequence starts at its end). Step s works on rows
// offset[s] ... offset[s] + active[s] of the row-major (row, feature) tensors; row r of a step
// belongs to sequence r of the batch.
struct Steps {
  int64_t count;
  int64_t batch;
  const int64_t* active;
  const int64_t* offset;
};

// How a call is spread over threads: over hidden units, with a barrier per step, or over the batch,
// without one.
struct Split {
  int slots;
  bool over_rows;
};

// The part of a Split that one callback owns.
struct Slots {
  int begin, end, total;
};

struct Sizes {
  int64_t hidden;  // H, units of the cell
  int64_t state;   // P, size of the recurrent state: H, or the projection's size
};

struct ForwardArgs {
  Steps steps;
  Sizes sizes;
  Split split;
  const void* w_hh;  // storage (gates * H, P)
  const void* w_hr;  // storage (P, H) or null
  void* packed_hh;   // room for packed weights; null: read them as they are
  void* packed_hr;
  bool prepacked_hh;  // packed_hh is filled already
  bool prepacked_hr;
  int64_t first_step;  // the steps to do: [first_step, end_step)
  int64_t end_step;
  const void*
      input;  // storage (rows, input_size); null: `gates` holds the input's projection already
  const void* w_ih;  // storage (gates * H, input_size)
  int64_t input_size;
  const void*
      bias;        // compute (gates * H); GRU: r, z, n of the input and n of the state. Null: none
  const void* h0;  // storage (B, P)
  void* gates;     // storage (rows, gates_stride): pre-activations in; activated gates out if save
  int64_t first_gate_row;  // the row of the sequence that `gates` begins with
  int64_t gates_stride;
  void* cell_state;  // compute (B, H): c_0 in, c_n out
  void* cells;       // compute (rows, H) if save
  void* hidden;      // storage, with w_hr only: (rows, H) if save, else (B, H)
  void* output;      // storage (rows, P)
  void* operand;     // scratch: operand_bytes for every slot
  int64_t operand_bytes;
  bool save;
};

struct BackwardArgs {
  Steps steps;
  Sizes sizes;
  Split split;
  const void* w_hh;
  const void* w_hr;
  void* packed_hh;
  void* packed_hr;
  bool prepacked;      // packed_hh and packed_hr are filled already
  int64_t first_step;  // the steps to do, from the end: [first_step, end_step)
  int64_t end_step;
  const void* h0;           // storage (B, P)
  const void* c0;           // storage (B, H), LSTM only
  const void* output;       // storage (rows, P)
  const void* gates;        // storage (rows, 4H), as saved
  const void* cells;        // compute (rows, H), as saved
  const void* grad_output;  // storage (rows, P) or null
  const void* grad_h_n;     // storage (B, P) or null
  const void* grad_c_n;     // storage (B, H) or null
  // storage, rows of grad_gates_stride: LSTM 4H as i, f, g, o; GRU 4H as n, r, z, q so that both
  // the input's part (n, r, z) and the state's part (r, z, q) are contiguous; RNN H.
  void* grad_gates;
  int64_t first_grad_row;  // the row of the sequence that grad_gates begins with
  int64_t grad_gates_stride;
  void* grad_projected;  // storage (rows, P), with w_hr only: the whole gradient of the projected
                         // state
  void* carry;           // compute (B, H) scratch: gradient that reaches the previous step past the
                         // recurrent product
  void* grad_h0;         // storage (B, P) or null
  void* grad_c0;         // storage (B, H) or null
  double* grad_bias;     // (over_rows ? slots : 1, 4H or H), zeroed: sums of grad_gates, in
                         // grad_gates' order; or null
  void* operand;
  int64_t operand_bytes;
};

struct CellKernels {
  void (*forward)(const ForwardArgs&, Slots, Barrier&);
  void (*backward)(const BackwardArgs&, Slots, Barrier&);
  // Fills packed blocks [begin, end) of the recurrent weights as forward wants them.
  void (*pack)(const void* w_hh, Sizes, void* packed, int64_t begin, int64_t end);
  int64_t forward_units;   // hidden units in a block of the forward product
  int64_t backward_units;  // columns in a block of the backward product and of both projections
};

struct ProductKernels {
  CellKernels cell[kCells];
  // Bytes of `units` columns of `gates` gates, in blocks of `block_units`, packed for a product of
  // depth `depth`.
  int64_t (*packed_bytes)(int64_t depth, int64_t units, int64_t block_units, int gates);
  // Bytes of scratch for `rows` rows of an operand of depth `depth`; 0 where it is read in place.
  int64_t (*operand_bytes)(int64_t rows, int64_t depth);
};

struct RecurrentKernels {
  ProductKernels packed;
  ProductKernels unpacked;
};

// The kernels of the ISA level in use.
const RecurrentKernels& recurrent_kernels(Storage storage);

}  // namespace seqkern
