// What the cell operators (compiled once) and their kernels (compiled once per ISA level) agree on:
// a single step of a cell for a few rows, without the order, the packing and the scratch that a
// whole sequence needs.
//
// Pointers are untyped as in kernels.h, whose names these are; B rows, I inputs, H hidden units,
// G gates.
#pragma once

#include "recurrent/kernels.h"

namespace seqkern {

struct StepSizes {
  int64_t batch, inputs, hidden;
};

struct StepForwardArgs {
  StepSizes sizes;
  Split split;        // over hidden units
  const void* input;  // storage (B, I)
  const void* h0;     // storage (B, H); null: zeros
  const void* c0;     // storage (B, H), LSTM only; null: zeros
  const void* w_ih;   // storage (G * H, I)
  const void* w_hh;   // storage (G * H, H)
  const void* b_ih;   // storage (G * H) or null
  const void* b_hh;
  void* h;        // storage (B, H)
  void* c;        // storage (B, H), LSTM only
  void* gates;    // storage (B, 4H) or null: the activated gates; LSTM i, f, g, o; GRU r, z, n, q
  void* operand;  // scratch: operand_bytes, 64-byte aligned
};

struct StepBackwardArgs {
  StepSizes sizes;
  Split split;  // over hidden units; over columns and rows of the products
  const void* input;
  const void* h0;
  const void* c0;
  const void* w_ih;
  const void* w_hh;
  const void* h;       // storage (B, H): the result of the step, RNN only
  const void* gates;   // storage (B, 4H), as saved; not of the RNN
  const void* grad_h;  // storage (B, H) or null
  const void* grad_c;  // storage (B, H) or null, LSTM only
  // (B, grad_gates): gradients of the pre-activations in the order of the weights' rows; the GRU's
  // for w_ih stand first, those for w_hh behind them.
  void* grad_gates;
  // The GRU's gradient of h0 past the recurrent product: grad_h0 itself where it has the right
  // type, else scratch.
  void* carry;
  bool wide;      // grad_gates and carry have the compute type, else storage
  bool products;  // compute grad_input, grad_w_ih, grad_w_hh and (with the product) grad_h0, too
  // Results, null where not wanted.
  void* grad_input;  // storage (B, I)
  void* grad_h0;     // storage (B, H)
  void* grad_c0;     // storage (B, H)
  void* grad_w_ih;   // storage (G * H, I)
  void* grad_w_hh;   // storage (G * H, H)
  void* grad_b_ih;   // storage (G * H)
  void* grad_b_hh;
};

// A way to do the forward.
struct StepForward {
  bool (*takes)(StepSizes);  // whether it is for a call of these sizes
  int64_t (*operand_bytes)(StepSizes);
  int64_t (*work)(StepSizes);  // in multiply-adds of float32
  void (*run)(const StepForwardArgs&, Slots, Barrier&);
};

struct StepKernels {
  // The first that takes a call does it; where none does, the products of a library are better.
  // Without functions: the level has none.
  StepForward forward[2];
  int64_t product_rows;  // the most rows for which backward takes its products
  void (*backward)(const StepBackwardArgs&, Slots, Barrier&);
};

// The kernels of the ISA level in use.
const StepKernels& step_kernels(Storage storage, Cell cell);

// Columns of grad_gates.
constexpr int64_t step_grad_gates(Cell cell, int64_t hidden) {
  return hidden * (cell == Cell::kLstm ? 4 : cell == Cell::kGru ? 6 : 1);
}

}  // namespace seqkern
