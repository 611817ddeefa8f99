// The cells as the time loop wants them: rows() takes the recurrent product of some rows and one
// block of units, reads what else the cell needs, applies the maths of lstm.h, gru.h or rnn.h, and
// stores what comes of it.
#pragma once

#include "recurrent/cells/gru.h"
#include "recurrent/cells/lstm.h"
#include "recurrent/cells/rnn.h"
#include "recurrent/cpu/time_loop.h"

namespace seqkern {
namespace SEQKERN_ISA {

// One vector of units of a block: its place in a row and how many of its lanes are units.
struct Lanes {
  int64_t unit;
  int count;
};

template <class C>
Lanes lanes_of(int64_t first_unit, int v, int64_t hidden) {
  const int64_t unit = first_unit + v * Vec<C>::kLanes;
  return {unit, static_cast<int>(smaller<int64_t>(Vec<C>::kLanes, hidden - unit))};
}

// Announces a block's units of one row: kVectors vectors of the compute type's lanes.
template <int kVectors, class T>
__attribute__((always_inline)) inline void prefetch_units(const T* p) {
  constexpr int64_t kBytes = kVectors * Vec<compute_t<T>>::kLanes * int64_t(sizeof(T));
  for (int64_t at = 0; at < kBytes; at += kLineBytes)
    prefetch(reinterpret_cast<const char*>(p) + at);
}
template <int kVectors, class T>
__attribute__((always_inline)) inline void prefetch_units_to_write(T* p) {
  constexpr int64_t kBytes = kVectors * Vec<compute_t<T>>::kLanes * int64_t(sizeof(T));
  for (int64_t at = 0; at < kBytes; at += kLineBytes)
    prefetch_to_write(reinterpret_cast<char*>(p) + at);
}

// What the forward cells share. A block holds kVectors vectors: those of its units for each of
// kGates gates.
template <class S, int kGates_, int kVectors_>
struct ForwardCell {
  using C = compute_t<S>;
  using V = Vec<C>;
  static constexpr int kGates = kGates_, kVectors = kVectors_;

  static void prefetch_rows(const ForwardArgs& args, int64_t offset, int64_t first_unit,
                            int64_t row, int64_t count, S* out) {
    const int64_t hidden = args.sizes.hidden;
    for (int64_t r = row; r < row + count; ++r) {
      const S* gates =
          static_cast<const S*>(args.gates) + (offset + r) * args.gates_stride + first_unit;
      for (int gate = 0; gate < kGates; ++gate)
        prefetch_units<kVectors / kGates>(gates + gate * hidden);
      prefetch_units_to_write<kVectors / kGates>(out + r * hidden + first_unit);
    }
  }
};

template <class S>
struct LstmForward : ForwardCell<S, 4, 4> {
  using Base = ForwardCell<S, 4, 4>;
  using typename Base::C;
  using typename Base::V;

  static void rows(const ForwardArgs& args, int64_t offset, int64_t first_unit, int64_t row,
                   int64_t count, const C* product, const Rows<S>&, S* out) {
    const int64_t hidden = args.sizes.hidden;
    const Lanes at = lanes_of<C>(first_unit, 0, hidden);
    const C* bias = static_cast<const C*>(args.bias);
    V biases[4];
    for (int gate = 0; gate < 4; ++gate)
      biases[gate] = bias ? load_first(bias + gate * hidden + at.unit, at.count) : V(C(0));
    for (int64_t r = row; r < row + count; ++r, product += 4 * V::kLanes) {
      S* gates = static_cast<S*>(args.gates) + (offset + r) * args.gates_stride + at.unit;
      V gate[4];
      for (int k = 0; k < 4; ++k)
        gate[k] =
            load(product + k * V::kLanes) + biases[k] + load_first(gates + k * hidden, at.count);
      C* state = static_cast<C*>(args.cell_state) + r * hidden + at.unit;
      V c = load_first(state, at.count);
      const V h = lstm_cell(gate[0], gate[1], gate[2], gate[3], c);
      store_first(state, c, at.count);
      store_first(out + r * hidden + at.unit, h, at.count);
      if (args.save) {
        for (int k = 0; k < 4; ++k) store_first(gates + k * hidden, gate[k], at.count);
        store_first(static_cast<C*>(args.cells) + (offset + r) * hidden + at.unit, c, at.count);
      }
    }
  }
};

template <class S>
struct GruForward : ForwardCell<S, 3, 3> {
  using Base = ForwardCell<S, 3, 3>;
  using typename Base::C;
  using typename Base::V;

  static void rows(const ForwardArgs& args, int64_t offset, int64_t first_unit, int64_t row,
                   int64_t count, const C* product, const Rows<S>& h_prev, S* out) {
    const int64_t hidden = args.sizes.hidden;
    const Lanes at = lanes_of<C>(first_unit, 0, hidden);
    const C* bias = static_cast<const C*>(args.bias);
    V biases[4];
    for (int gate = 0; gate < 4; ++gate)
      biases[gate] = bias ? load_first(bias + gate * hidden + at.unit, at.count) : V(C(0));
    for (int64_t i = row; i < row + count; ++i, product += 3 * V::kLanes) {
      S* gates = static_cast<S*>(args.gates) + (offset + i) * args.gates_stride + at.unit;
      V r = load(product) + biases[0] + load_first(gates, at.count);
      V z = load(product + V::kLanes) + biases[1] + load_first(gates + hidden, at.count);
      V n = biases[2] + load_first(gates + 2 * hidden, at.count);
      const V q = load(product + 2 * V::kLanes) + biases[3];
      const V h = gru_cell(r, z, n, q, load_first(h_prev.row(i) + at.unit, at.count));
      store_first(out + i * hidden + at.unit, h, at.count);
      if (args.save) {
        store_first(gates, r, at.count);
        store_first(gates + hidden, z, at.count);
        store_first(gates + 2 * hidden, n, at.count);
        store_first(gates + 3 * hidden, q, at.count);
      }
    }
  }
};

template <class S, bool kRelu>
struct RnnForward : ForwardCell<S, 1, 2> {
  using Base = ForwardCell<S, 1, 2>;
  using Base::kVectors;
  using typename Base::C;
  using typename Base::V;

  static void rows(const ForwardArgs& args, int64_t offset, int64_t first_unit, int64_t row,
                   int64_t count, const C* product, const Rows<S>&, S* out) {
    const int64_t hidden = args.sizes.hidden;
    const C* bias = static_cast<const C*>(args.bias);
    for (int v = 0; v < kVectors; ++v) {
      const Lanes at = lanes_of<C>(first_unit, v, hidden);
      if (at.count <= 0) continue;
      const V biases = bias ? load_first(bias + at.unit, at.count) : V(C(0));
      for (int64_t r = 0; r < count; ++r) {
        const S* gates =
            static_cast<const S*>(args.gates) + (offset + row + r) * args.gates_stride + at.unit;
        const V sum =
            load(product + (r * kVectors + v) * V::kLanes) + biases + load_first(gates, at.count);
        store_first(out + (row + r) * hidden + at.unit, rnn_cell<kRelu>(sum), at.count);
      }
    }
  }
};

// What the backward cells share: where step s's rows are, the row of the state before a step, and
// the sums for the biases.
template <class S, int kSaved>
struct BackwardCell {
  using C = compute_t<S>;
  using V = Vec<C>;

  BackwardCell(const BackwardArgs& args, int first_slot)
      : args(args),
        steps(args.steps),
        hidden(args.sizes.hidden),
        grad_bias(args.grad_bias
                      ? args.grad_bias + (args.split.over_rows ? first_slot : 0) * kSaved * hidden
                      : nullptr) {}

  C* carry(int64_t row, int64_t unit) const {
    return static_cast<C*>(args.carry) + row * hidden + unit;
  }
  S* grad_gates(int64_t offset, int64_t row, int64_t unit) const {
    return static_cast<S*>(args.grad_gates) +
           (offset - args.first_grad_row + row) * args.grad_gates_stride + unit;
  }

  // Row `row` of a per-step tensor (`all`) at the step before s, or of its initial value where the
  // row begins with s.
  template <class T, class T0>
  V before(int64_t s, int64_t row, const T* all, const T0* initial, int64_t unit, int n) const {
    if (s > 0 && row < steps.active[s - 1])
      return load_first(all + (steps.offset[s - 1] + row) * hidden + unit, n);
    return load_first(initial + row * hidden + unit, n);
  }

  // Sums over rows in the compute type, sums over steps in double.
  void add_to_bias(int gate, const Lanes& at, V total) const {
    if (!grad_bias) return;
    C lanes[V::kLanes];
    store(lanes, total);
    double* to = grad_bias + gate * hidden + at.unit;
    for (int i = 0; i < at.count; ++i) to[i] += lanes[i];
  }

  const BackwardArgs& args;
  const Steps& steps;
  const int64_t hidden;
  double* const grad_bias;
};

template <class S>
struct LstmBackward : BackwardCell<S, 4> {
  using Base = BackwardCell<S, 4>;
  using Base::args, Base::steps, Base::hidden;
  using typename Base::C;
  using typename Base::V;
  static constexpr int kGates = 4, kSavedGates = 4;
  static constexpr bool kCarriesState = false;
  static constexpr int kInputsFirst = 0;
  using Base::Base;

  template <int kColumnVectors>
  void prefetch_rows(int64_t s, int64_t first_unit, int64_t row, int64_t count) const {
    if (count <= 0) return;  // rows that only finish grad_h0
    const int64_t offset = steps.offset[s];
    for (int64_t r = row; r < row + count; ++r) {
      const S* gates =
          static_cast<const S*>(args.gates) + (offset + r) * kSavedGates * hidden + first_unit;
      for (int gate = 0; gate < kSavedGates; ++gate)
        prefetch_units<kColumnVectors>(gates + gate * hidden);
      prefetch_units<kColumnVectors>(static_cast<const C*>(args.cells) + (offset + r) * hidden +
                                     first_unit);
      S* grads = this->grad_gates(offset, r, first_unit);
      for (int gate = 0; gate < kSavedGates; ++gate)
        prefetch_units_to_write<kColumnVectors>(grads + gate * hidden);
      if (args.grad_output)
        prefetch_units<kColumnVectors>(static_cast<const S*>(args.grad_output) +
                                       (offset + r) * hidden + first_unit);
    }
  }

  void rows(int column_vectors, int64_t s, int64_t first_unit, int64_t row, int64_t count,
            const C* grad_h, bool continuing) const {
    const int64_t offset = steps.offset[s];
    const C* cells = static_cast<const C*>(args.cells);
    for (int v = 0; v < column_vectors; ++v) {
      const Lanes at = lanes_of<C>(first_unit, v, hidden);
      if (at.count <= 0) continue;
      V bias[4] = {V(C(0)), V(C(0)), V(C(0)), V(C(0))};
      for (int64_t r = 0; r < count; ++r) {
        const int64_t i = row + r;
        const S* gates = static_cast<const S*>(args.gates) + (offset + i) * 4 * hidden + at.unit;
        V gate[4];
        for (int k = 0; k < 4; ++k) gate[k] = load_first(gates + k * hidden, at.count);
        const V c = load_first(cells + (offset + i) * hidden + at.unit, at.count);
        const V c_prev =
            this->before(s, i, cells, static_cast<const S*>(args.c0), at.unit, at.count);
        V dc(C(0));
        if (continuing)
          dc = load_first(this->carry(i, at.unit), at.count);
        else if (args.grad_c_n)
          dc = load_first(static_cast<const S*>(args.grad_c_n) + i * hidden + at.unit, at.count);
        const V dh = load(grad_h + (r * column_vectors + v) * V::kLanes);
        lstm_cell_backward(gate[0], gate[1], gate[2], gate[3], c, c_prev, dh, dc);
        store_first(this->carry(i, at.unit), dc, at.count);
        S* grads = this->grad_gates(offset, i, at.unit);
        for (int k = 0; k < 4; ++k) {
          store_first(grads + k * hidden, gate[k], at.count);
          bias[k] += gate[k];
        }
      }
      for (int k = 0; k < 4; ++k) this->add_to_bias(k, at, bias[k]);
    }
  }
};

template <class S>
struct GruBackward : BackwardCell<S, 4> {
  using Base = BackwardCell<S, 4>;
  using Base::args, Base::steps, Base::hidden;
  using typename Base::C;
  using typename Base::V;
  static constexpr int kGates = 3, kSavedGates = 4;
  static constexpr bool kCarriesState = true;
  static constexpr int kInputsFirst = 1;  // n's; r, z and n's state part follow
  using Base::Base;

  template <int kColumnVectors>
  void prefetch_rows(int64_t s, int64_t first_unit, int64_t row, int64_t count) const {
    if (count <= 0) return;  // rows that only finish grad_h0
    const int64_t offset = steps.offset[s];
    for (int64_t r = row; r < row + count; ++r) {
      const S* gates =
          static_cast<const S*>(args.gates) + (offset + r) * kSavedGates * hidden + first_unit;
      for (int gate = 0; gate < kSavedGates; ++gate)
        prefetch_units<kColumnVectors>(gates + gate * hidden);
      S* grads = this->grad_gates(offset, r, first_unit);
      for (int gate = 0; gate < kSavedGates; ++gate)
        prefetch_units_to_write<kColumnVectors>(grads + gate * hidden);
      if (args.grad_output)
        prefetch_units<kColumnVectors>(static_cast<const S*>(args.grad_output) +
                                       (offset + r) * hidden + first_unit);
    }
  }

  void rows(int column_vectors, int64_t s, int64_t first_unit, int64_t row, int64_t count,
            const C* grad_h, bool) const {
    const int64_t offset = steps.offset[s];
    for (int v = 0; v < column_vectors; ++v) {
      const Lanes at = lanes_of<C>(first_unit, v, hidden);
      if (at.count <= 0) continue;
      V bias[4] = {V(C(0)), V(C(0)), V(C(0)), V(C(0))};
      for (int64_t i = 0; i < count; ++i) {
        const S* gates =
            static_cast<const S*>(args.gates) + (offset + row + i) * 4 * hidden + at.unit;
        V r = load_first(gates, at.count), z = load_first(gates + hidden, at.count);
        V n = load_first(gates + 2 * hidden, at.count),
          q = load_first(gates + 3 * hidden, at.count);
        const V h_prev = this->before(s, row + i, static_cast<const S*>(args.output),
                                      static_cast<const S*>(args.h0), at.unit, at.count);
        V dh = load(grad_h + (i * column_vectors + v) * V::kLanes);
        gru_cell_backward(r, z, n, q, h_prev, dh);
        store_first(this->carry(row + i, at.unit), dh, at.count);
        S* grads = this->grad_gates(offset, row + i, at.unit);
        const V stored[4] = {n, r, z, q};
        for (int k = 0; k < 4; ++k) {
          store_first(grads + k * hidden, stored[k], at.count);
          bias[k] += stored[k];
        }
      }
      for (int k = 0; k < 4; ++k) this->add_to_bias(k, at, bias[k]);
    }
  }
};

template <class S, bool kRelu>
struct RnnBackward : BackwardCell<S, 1> {
  using Base = BackwardCell<S, 1>;
  using Base::args, Base::steps, Base::hidden;
  using typename Base::C;
  using typename Base::V;
  static constexpr int kGates = 1, kSavedGates = 1;
  static constexpr bool kCarriesState = false;
  static constexpr int kInputsFirst = 0;
  using Base::Base;

  template <int kColumnVectors>
  void prefetch_rows(int64_t s, int64_t first_unit, int64_t row, int64_t count) const {
    if (count <= 0) return;  // rows that only finish grad_h0
    const int64_t offset = steps.offset[s];
    for (int64_t r = row; r < row + count; ++r) {
      prefetch_units<kColumnVectors>(static_cast<const S*>(args.output) + (offset + r) * hidden +
                                     first_unit);
      S* grads = this->grad_gates(offset, r, first_unit);
      for (int gate = 0; gate < kSavedGates; ++gate)
        prefetch_units_to_write<kColumnVectors>(grads + gate * hidden);
      if (args.grad_output)
        prefetch_units<kColumnVectors>(static_cast<const S*>(args.grad_output) +
                                       (offset + r) * hidden + first_unit);
    }
  }

  void rows(int column_vectors, int64_t s, int64_t first_unit, int64_t row, int64_t count,
            const C* grad_h, bool) const {
    const int64_t offset = steps.offset[s];
    for (int v = 0; v < column_vectors; ++v) {
      const Lanes at = lanes_of<C>(first_unit, v, hidden);
      if (at.count <= 0) continue;
      V bias(C(0));
      for (int64_t r = 0; r < count; ++r) {
        const V h = load_first(
            static_cast<const S*>(args.output) + (offset + row + r) * hidden + at.unit, at.count);
        const V grad =
            rnn_cell_backward<kRelu>(h, load(grad_h + (r * column_vectors + v) * V::kLanes));
        store_first(this->grad_gates(offset, row + r, at.unit), grad, at.count);
        bias += grad;
      }
      this->add_to_bias(0, at, bias);
    }
  }
};

}  // namespace SEQKERN_ISA
}  // namespace seqkern
