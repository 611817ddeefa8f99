// The backward loop over time of a layer on a GPU: gradients of the gates' pre-activations, of the
// initial states, and nothing else; those of weights, biases and inputs are products afterwards.
// loop.cuh has the loop.
//
// Floor of a step, as for the forward pass, but that each unit needs the gradients of all gates of
// all units: R * gates * H * 2 bytes into each SM (LSTM, H = 1024, R = 8: 64 KiB, 0.6
// us at 64 bytes a cycle), beside the two trips through L2. Not measured.
#pragma once

#include "recurrent/cuda/loop.cuh"
#include "recurrent/cuda/pointwise.cuh"
// after device.cuh and pointwise.cuh, which declare the functions that they call
#include "recurrent/cells/gru.h"
#include "recurrent/cells/lstm.h"
#include "recurrent/cells/rnn.h"

namespace seqkern {

// The loop's weights are w_hh transposed, (H, gates * H); its exchange holds the gradients that the
// recurrent product sees: GRU r, z and n's state part. A wave goes from the last layer down: beside
// those stand the gradients of the layer above, for which w_ih above is transposed as well: GRU r,
// z and n's input part.
template <class S>
struct BackwardLoop {
  Loop<S> loop;
  const S* gates;                // (rows, 4 H), as saved; null for the Elman cell
  const float* cells;            // (rows, H), as saved; LSTM only
  const S* output;               // (rows, H), rows output_stride apart
  const S *h0, *c0;              // (B, H) or null for zeros
  const S* grad_output;          // as output, or null
  const S *grad_h_n, *grad_c_n;  // (B, H) or null
  S* grad_gates;       // (rows, gates * H), rows grad_gates_stride apart; GRU: n's input part
  S* grad_state_part;  // (rows, H): GRU: n's state part
  int64_t output_stride, grad_gates_stride;
  float* carry;          // (B, H) for the launches: what reaches the step before past the product
  S *grad_h0, *grad_c0;  // (B, H) or null
  bool relu;
};

template <class S, int kGates>
struct BackwardWork : BackwardLoop<S> {
  static constexpr int kSums = 1, kRowTiles = 1, kUnits = kTileRows;
  static constexpr int kKeptChunks = kept_chunks<S>(kRowTiles);

  // Rows from `alive` on were alive at the step just done, which was their first: they only finish
  // the gradient of their initial state.
  struct Step {
    int64_t rows, alive, before, after, offset, offset_before;
  };

  SEQKERN_DEVICE static int weight_row(int first_unit, int row, int hidden) {
    return first_unit + row < hidden ? first_unit + row : -1;
  }
  SEQKERN_DEVICE static int sum_row(int unit, int) { return unit; }

  // One iteration more than there are steps, for the rows that begin with the first.
  SEQKERN_DEVICE Step step(int64_t iteration) const {
    const LoopSteps& steps = this->loop.steps;
    const int64_t now = steps.count - 1 - iteration;
    const int64_t alive = steps.alive(now), after = steps.alive(now + 1);
    return {alive > after ? alive : after, alive, steps.alive(now - 1), after, steps.offset(now),
            steps.offset(now - 1)};
  }

  SEQKERN_DEVICE int64_t place(int64_t row, int64_t unit) const {
    return row * this->loop.hidden + unit;
  }
  SEQKERN_DEVICE static float load_or_zero(const S* p, int64_t at) {
    return p ? device::load(p + at) : 0.0f;
  }

  // The gradient of h from outside of the layer.
  SEQKERN_DEVICE float fetch_gradient(const Step& step, int64_t row, int64_t unit) const {
    if (row >= step.alive) return 0;
    const float grad =
        load_or_zero(this->grad_output, (step.offset + row) * this->output_stride + unit);
    return row < step.after ? grad : grad + load_or_zero(this->grad_h_n, place(row, unit));
  }

  template <int n>
  SEQKERN_DEVICE void fetch_gates(const Step& step, int64_t row, int64_t unit,
                                  float (&gate)[n]) const {
    SEQKERN_UNROLL
    for (int i = 0; i < n; ++i)
      gate[i] = device::load(this->gates + place((step.offset + row) * n + i, unit));
  }

  SEQKERN_DEVICE void save_gates(const Step& step, const float* gate, int64_t row,
                                 int64_t unit) const {
    S* to = this->grad_gates + (step.offset + row) * this->grad_gates_stride + unit;
    SEQKERN_UNROLL
    for (int i = 0; i < kGates; ++i) device::store(to + i * this->loop.hidden, gate[i]);
  }

  // What a sequence that has ended leaves to the next loop: nothing.
  SEQKERN_DEVICE void clear(int64_t unit, S* next) const {
    if (!next) return;
    SEQKERN_UNROLL
    for (int i = 0; i < kGates; ++i) device::store(next + i * this->loop.hidden + unit, 0.0f);
  }

  SEQKERN_DEVICE void save_first_state(float grad, int64_t row, int64_t unit) const {
    if (this->grad_h0) device::store(this->grad_h0 + place(row, unit), grad);
  }
};

template <class S>
struct LstmBackward : BackwardWork<S, 4> {
  using Base = BackwardWork<S, 4>;
  using typename Base::Step;

  struct Pair {
    float gate[4];
    float c, c_before, grad_h, grad_c;
  };

  SEQKERN_DEVICE Pair fetch(const Step& step, int64_t row, int64_t unit) const {
    Pair pair{};
    if (row >= step.alive) return pair;
    pair.grad_h = this->fetch_gradient(step, row, unit);
    this->fetch_gates(step, row, unit, pair.gate);
    pair.c = device::load(this->cells + this->place(step.offset + row, unit));
    pair.c_before = row < step.before
                        ? device::load(this->cells + this->place(step.offset_before + row, unit))
                        : this->load_or_zero(this->c0, this->place(row, unit));
    pair.grad_c = row < step.after ? device::load(this->carry + this->place(row, unit))
                                   : this->load_or_zero(this->grad_c_n, this->place(row, unit));
    return pair;
  }

  SEQKERN_DEVICE void finish(const Step& step, Pair& pair, const float* sums, int64_t row,
                             int64_t unit, S* exchange, S* next) const {
    pair.grad_h += sums[0];
    if (row >= step.alive) return this->clear(unit, next);
    lstm_cell_backward(pair.gate[0], pair.gate[1], pair.gate[2], pair.gate[3], pair.c,
                       pair.c_before, pair.grad_h, pair.grad_c);
    SEQKERN_UNROLL
    for (int i = 0; i < 4; ++i) {
      device::store(exchange + i * this->loop.hidden + unit, pair.gate[i]);
      if (next) device::store(next + i * this->loop.hidden + unit, pair.gate[i]);
    }
  }

  SEQKERN_DEVICE void save(const Step& step, const Pair& pair, int64_t row, int64_t unit) const {
    if (row >= step.alive) return this->save_first_state(pair.grad_h, row, unit);
    this->save_gates(step, pair.gate, row, unit);
    device::store(this->carry + this->place(row, unit), pair.grad_c);
    if (row >= step.before && this->grad_c0)
      device::store(this->grad_c0 + this->place(row, unit), pair.grad_c);
  }
};

template <class S>
struct GruBackward : BackwardWork<S, 3> {
  using Base = BackwardWork<S, 3>;
  using typename Base::Step;

  struct Pair {
    float gate[4];
    float h_before, grad_h;
  };

  SEQKERN_DEVICE Pair fetch(const Step& step, int64_t row, int64_t unit) const {
    Pair pair{};
    pair.grad_h = this->fetch_gradient(step, row, unit);
    if (row < step.after) pair.grad_h += device::load(this->carry + this->place(row, unit));
    if (row >= step.alive) return pair;
    this->fetch_gates(step, row, unit, pair.gate);
    pair.h_before =
        row < step.before
            ? device::load(this->output + (step.offset_before + row) * this->output_stride + unit)
            : this->load_or_zero(this->h0, this->place(row, unit));
    return pair;
  }

  SEQKERN_DEVICE void finish(const Step& step, Pair& pair, const float* sums, int64_t row,
                             int64_t unit, S* exchange, S* next) const {
    pair.grad_h += sums[0];
    if (row >= step.alive) return this->clear(unit, next);
    gru_cell_backward(pair.gate[0], pair.gate[1], pair.gate[2], pair.gate[3], pair.h_before,
                      pair.grad_h);
    const int64_t hidden = this->loop.hidden;
    device::store(exchange + unit, pair.gate[0]);
    device::store(exchange + hidden + unit, pair.gate[1]);
    device::store(exchange + 2 * hidden + unit, pair.gate[3]);
    if (!next) return;
    device::store(next + unit, pair.gate[0]);
    device::store(next + hidden + unit, pair.gate[1]);
    device::store(next + 2 * hidden + unit, pair.gate[2]);
  }

  SEQKERN_DEVICE void save(const Step& step, const Pair& pair, int64_t row, int64_t unit) const {
    if (row >= step.alive) return this->save_first_state(pair.grad_h, row, unit);
    this->save_gates(step, pair.gate, row, unit);
    device::store(this->grad_state_part + this->place(step.offset + row, unit), pair.gate[3]);
    device::store(this->carry + this->place(row, unit), pair.grad_h);
  }
};

template <class S>
struct RnnBackward : BackwardWork<S, 1> {
  using Base = BackwardWork<S, 1>;
  using typename Base::Step;

  struct Pair {
    float h, grad_h;
  };

  SEQKERN_DEVICE Pair fetch(const Step& step, int64_t row, int64_t unit) const {
    Pair pair{};
    if (row >= step.alive) return pair;
    pair.grad_h = this->fetch_gradient(step, row, unit);
    pair.h = device::load(this->output + (step.offset + row) * this->output_stride + unit);
    return pair;
  }

  SEQKERN_DEVICE void finish(const Step& step, Pair& pair, const float* sums, int64_t row,
                             int64_t unit, S* exchange, S* next) const {
    pair.grad_h += sums[0];
    if (row >= step.alive) return this->clear(unit, next);
    pair.grad_h = this->relu ? rnn_cell_backward<true>(pair.h, pair.grad_h)
                             : rnn_cell_backward<false>(pair.h, pair.grad_h);
    device::store(exchange + unit, pair.grad_h);
    if (next) device::store(next + unit, pair.grad_h);
  }

  SEQKERN_DEVICE void save(const Step& step, const Pair& pair, int64_t row, int64_t unit) const {
    if (row >= step.alive) return this->save_first_state(pair.grad_h, row, unit);
    this->save_gates(step, &pair.grad_h, row, unit);
  }
};

template <class S, template <class> class Work>
SEQKERN_KERNEL SEQKERN_MOST_THREADS(kMostWarps* kWarpThreads)
    backward_loop_kernel(SEQKERN_CONSTANT Tasks<Work<S>> tasks) {
  SEQKERN_DYNAMIC_SHARED(float, shared);
  run_task(tasks, shared);
}

}  // namespace seqkern
