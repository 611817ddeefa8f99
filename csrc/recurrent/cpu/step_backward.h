// The backward of one step of a cell. For a few rows all of it is here: the cell, then both
// products with the weights and the weights' gradients, which are sums of as many outer products as
// there are rows. For more rows only the cell is, and a library takes the products.
#pragma once

#include "recurrent/cpu/fma_product.h"
#include "recurrent/cpu/step_cells.h"

namespace seqkern {
namespace SEQKERN_ISA {

constexpr int64_t kProductRows = 4;

// ---- the cells ----
// units() turns the gradients of the results into those of the pre-activations, for all rows and a
// vector of units, and sums up the biases' gradients.

template <class S>
struct StepGradients {
  using C = compute_t<S>;
  using V = Vec<C>;

  // Element `offset` of a buffer that has the compute type if args.wide.
  static void store_grads(const StepBackwardArgs& args, void* to, int64_t offset, V x, int n) {
    if (__is_same(S, C) || !args.wide)
      store_first(static_cast<S*>(to) + offset, x, n);
    else
      store_first(static_cast<C*>(to) + offset, x, n);
  }

  static void store_bias(void* to, int64_t offset, V x, int n) {
    if (to) store_first(static_cast<S*>(to) + offset, x, n);
  }
};

template <class S>
struct LstmStepBackward : StepGradients<S> {
  using Storage = S;
  using Base = StepGradients<S>;
  using typename Base::C;
  using typename Base::V;
  static constexpr int kGates = 4, kGradGates = 4;
  static constexpr bool kCarriesState = false;

  static void units(const StepBackwardArgs& args, int64_t unit, int n) {
    const int64_t hidden = args.sizes.hidden;
    V bias[4] = {V(C(0)), V(C(0)), V(C(0)), V(C(0))};
    for (int64_t r = 0; r < args.sizes.batch; ++r) {
      const int64_t at = r * hidden + unit, gates_at = 4 * r * hidden + unit;
      V gate[4];
      for (int k = 0; k < 4; ++k)
        gate[k] = load_first(static_cast<const S*>(args.gates) + gates_at + k * hidden, n);
      const V c_prev = load_or_zero<S>(args.c0, at, n);
      const V c = gate[1] * c_prev + gate[0] * gate[2];
      V dc = load_or_zero<S>(args.grad_c, at, n);
      lstm_cell_backward(gate[0], gate[1], gate[2], gate[3], c, c_prev,
                         load_or_zero<S>(args.grad_h, at, n), dc);
      for (int k = 0; k < 4; ++k) {
        Base::store_grads(args, args.grad_gates, gates_at + k * hidden, gate[k], n);
        bias[k] += gate[k];
      }
      if (args.grad_c0) store_first(static_cast<S*>(args.grad_c0) + at, dc, n);
    }
    for (int k = 0; k < 4; ++k) {
      Base::store_bias(args.grad_b_ih, k * hidden + unit, bias[k], n);
      Base::store_bias(args.grad_b_hh, k * hidden + unit, bias[k], n);
    }
  }
};

template <class S>
struct GruStepBackward : StepGradients<S> {
  using Storage = S;
  using Base = StepGradients<S>;
  using typename Base::C;
  using typename Base::V;
  static constexpr int kGates = 3, kGradGates = 6;
  static constexpr bool kCarriesState = true;

  static void units(const StepBackwardArgs& args, int64_t unit, int n) {
    const int64_t hidden = args.sizes.hidden;
    V bias[4] = {V(C(0)), V(C(0)), V(C(0)), V(C(0))};
    for (int64_t i = 0; i < args.sizes.batch; ++i) {
      const int64_t at = i * hidden + unit;
      V gate[4];  // r, z, n, q
      for (int k = 0; k < 4; ++k)
        gate[k] = load_first(static_cast<const S*>(args.gates) + (4 * i + k) * hidden + unit, n);
      V dh = load_or_zero<S>(args.grad_h, at, n);
      gru_cell_backward(gate[0], gate[1], gate[2], gate[3], load_or_zero<S>(args.h0, at, n), dh);
      if (args.carry) Base::store_grads(args, args.carry, at, dh, n);
      for (int k = 0; k < 4; ++k) bias[k] += gate[k];
      const V stored[6] = {gate[0], gate[1], gate[2], gate[0], gate[1], gate[3]};
      for (int k = 0; k < 6; ++k)
        Base::store_grads(args, args.grad_gates, (6 * i + k) * hidden + unit, stored[k], n);
    }
    for (int k = 0; k < 3; ++k) {
      Base::store_bias(args.grad_b_ih, k * hidden + unit, bias[k], n);
      Base::store_bias(args.grad_b_hh, k * hidden + unit, bias[k == 2 ? 3 : k], n);
    }
  }
};

template <class S, bool kRelu>
struct RnnStepBackward : StepGradients<S> {
  using Storage = S;
  using Base = StepGradients<S>;
  using typename Base::C;
  using typename Base::V;
  static constexpr int kGates = 1, kGradGates = 1;
  static constexpr bool kCarriesState = false;

  static void units(const StepBackwardArgs& args, int64_t unit, int n) {
    V bias(C(0));
    for (int64_t r = 0; r < args.sizes.batch; ++r) {
      const int64_t at = r * args.sizes.hidden + unit;
      const V grad = rnn_cell_backward<kRelu>(load_first(static_cast<const S*>(args.h) + at, n),
                                              load_or_zero<S>(args.grad_h, at, n));
      Base::store_grads(args, args.grad_gates, at, grad, n);
      bias += grad;
    }
    Base::store_bias(args.grad_b_ih, unit, bias, n);
    Base::store_bias(args.grad_b_hh, unit, bias, n);
  }
};

// ---- products with the weights: out = grads * w (+ carry) ----

template <class S>
struct StepProduct {
  using C = compute_t<S>;
  const C* grads;  // (rows, depth), rows grads_stride apart
  int64_t grads_stride, depth;
  const S* w;  // (depth, columns)
  int64_t columns;
  const C* carry;  // (rows, columns) or null
  S* out;          // (rows, columns)
};

template <int kRows, int kVectors, class S>
void product_tile(const StepProduct<S>& p, int64_t column) {
  using V = Vec<compute_t<S>>;
  alignas(64) compute_t<S> sums[kRows * kVectors * V::kLanes];
  fma_tile<kRows, kVectors>(p.grads, p.grads_stride, p.depth, p.w + column, p.columns, sums,
                            reinterpret_cast<const char*>(p.w + column));
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVectors; ++v) {
      const int64_t at = r * p.columns + column + v * V::kLanes;
      V total = load(sums + (r * kVectors + v) * V::kLanes);
      if (p.carry) total += load(p.carry + at);
      store(p.out + at, total);
    }
}

// Columns [column, end): in tiles of kVectors vectors, then of fewer.
template <int kRows, int kVectors, class S>
void product_columns(const StepProduct<S>& p, int64_t column, int64_t end) {
  using V = Vec<compute_t<S>>;
  for (; column + kVectors * V::kLanes <= end; column += kVectors * V::kLanes)
    product_tile<kRows, kVectors>(p, column);
  if constexpr (kVectors > 1) {
    product_columns<kRows, kVectors / 2>(p, column, end);
  } else if (column < end) {
    const int n = static_cast<int>(end - column);
    for (int r = 0; r < kRows; ++r) {
      const int64_t at = r * p.columns + column;
      V total = p.carry ? load_first(p.carry + at, n) : V(compute_t<S>(0));
      for (int64_t k = 0; k < p.depth; ++k)
        total += V(p.grads[r * p.grads_stride + k]) * load_first(p.w + k * p.columns + column, n);
      store_first(p.out + at, total, n);
    }
  }
}

template <int kRows, class S>
void product(const StepProduct<S>& p, Slots slots) {
  constexpr int kSums = kVectorRegisters == 32 ? 16 : 8;
  constexpr int kVectors = kRows == 1 ? kSums : kRows == 2 ? kSums / 2 : kSums / 4;
  constexpr int64_t kLanes = Vec<compute_t<S>>::kLanes;
  const int64_t blocks = ceil_div(p.columns, kLanes);
  product_columns<kRows, kVectors>(p, share_begin(blocks, slots) * kLanes,
                                   smaller(share_end(blocks, slots) * kLanes, p.columns));
}

// ---- gradients of the weights: out[j] = sum over rows of grads[row][j] * a[row] ----

template <int kRows, class S>
void weight_gradient(const compute_t<S>* grads, int64_t grads_stride, int64_t outputs, const S* a,
                     int64_t columns, S* out, Slots slots) {
  using C = compute_t<S>;
  using V = Vec<C>;
  const int64_t end = share_end(outputs, slots);
  for (int64_t j = share_begin(outputs, slots); j < end; ++j) {
    V factor[kRows];
    for (int r = 0; r < kRows; ++r) factor[r] = V(grads[r * grads_stride + j]);
    S* to = out + j * columns;
    int64_t i = 0;
    if (!a) {  // zeros; a gradient that is NaN or infinite is to be seen nevertheless
      V total(C(0));
      for (int r = 0; r < kRows; ++r) total += factor[r] * V(C(0));
      for (; i < columns; i += V::kLanes)
        store_first(to + i, total, static_cast<int>(smaller<int64_t>(V::kLanes, columns - i)));
      continue;
    }
    for (; i + V::kLanes <= columns; i += V::kLanes) {
      V total = factor[0] * load(a + i);
#pragma GCC unroll 4
      for (int r = 1; r < kRows; ++r) total += factor[r] * load(a + r * columns + i);
      store(to + i, total);
    }
    if (i < columns) {
      const int n = static_cast<int>(columns - i);
      V total = factor[0] * load_first(a + i, n);
      for (int r = 1; r < kRows; ++r) total += factor[r] * load_first(a + r * columns + i, n);
      store_first(to + i, total, n);
    }
  }
}

// ---- the kernel ----

// What the products depend on of a cell: how many gates its weights and its rows of gradients
// have.
struct StepGates {
  int weights, gradients;
  bool carries_state;
};

template <class S, int kRows = static_cast<int>(kProductRows)>
void step_products(const StepBackwardArgs& args, StepGates gates, Slots slots) {
  if (args.sizes.batch != kRows) {
    if constexpr (kRows > 1) step_products<S, kRows - 1>(args, gates, slots);
    return;
  }
  using C = compute_t<S>;
  const int64_t hidden = args.sizes.hidden, inputs = args.sizes.inputs;
  const int64_t rows = gates.weights * hidden, stride = gates.gradients * hidden;
  const C* input_grads = static_cast<const C*>(args.grad_gates);
  const C* state_grads = input_grads + (stride - rows);
  if (args.grad_input)
    product<kRows, S>({input_grads, stride, rows, static_cast<const S*>(args.w_ih), inputs, nullptr,
                       static_cast<S*>(args.grad_input)},
                      slots);
  if (args.grad_h0)
    product<kRows, S>({state_grads, stride, rows, static_cast<const S*>(args.w_hh), hidden,
                       gates.carries_state ? static_cast<const C*>(args.carry) : nullptr,
                       static_cast<S*>(args.grad_h0)},
                      slots);
  if (args.grad_w_ih)
    weight_gradient<kRows, S>(input_grads, stride, rows, static_cast<const S*>(args.input), inputs,
                              static_cast<S*>(args.grad_w_ih), slots);
  if (args.grad_w_hh)
    weight_gradient<kRows, S>(state_grads, stride, rows, static_cast<const S*>(args.h0), hidden,
                              static_cast<S*>(args.grad_w_hh), slots);
}

template <class Cell>
void step_backward(const StepBackwardArgs& args, Slots slots, Barrier& barrier) {
  constexpr int kLanes = Cell::V::kLanes;
  const int64_t hidden = args.sizes.hidden, blocks = ceil_div(hidden, kLanes);
  for (int64_t block = share_begin(blocks, slots); block < share_end(blocks, slots); ++block)
    Cell::units(args, block * kLanes,
                static_cast<int>(smaller<int64_t>(kLanes, hidden - block * kLanes)));
  if (!args.products) return;
  barrier.wait(slots.end - slots.begin);
  step_products<typename Cell::Storage>(args, {Cell::kGates, Cell::kGradGates, Cell::kCarriesState},
                                        slots);
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
