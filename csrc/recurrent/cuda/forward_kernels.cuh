// The forward loop over time of a layer on a GPU; loop.cuh has the loop, plan.h the
// ways to spread it.
//
// Floor of a step at batch B (LSTM, 16-bit, H units; R rows of the batch in a block): 2 * 4 H * H *
// B FLOPs, a microsecond of tensor cores at B = 64, H = 1024 on a Hopper card; H * R * 2 bytes of
// states into each SM at 64 bytes a cycle (H = 1024, R = 8: 0.15 us); and what no
// bandwidth helps: one trip of the states through L2 and one of the barrier's
// words, about 0.7 us each. The weights cost nothing while they fit registers and shared memory,
// else what does not fit at 64 bytes a cycle. Not measured.
#pragma once

#include "recurrent/cuda/loop.cuh"
#include "recurrent/cuda/pointwise.cuh"
// after device.cuh and pointwise.cuh, which declare the functions that they call
#include "recurrent/cells/gru.h"
#include "recurrent/cells/lstm.h"
#include "recurrent/cells/rnn.h"

namespace seqkern {

template <class S>
struct ForwardLoop {
  Loop<S> loop;
  const S* inputs;  // the input's projection, in rows of gates_stride; null: the product has it
  S* gates;         // in the same place the activated gates, or null: nobody wants them
  int64_t gates_stride;
  const float* bias;  // a gate after the other; GRU: r, z, n of the input and n of the state
  const S *h0, *c0;   // (B, H) or null for zeros
  float* state;       // (B, H) for the launches: the LSTM's c, the GRU's h
  float* cells;       // (rows, H) if save, LSTM only
  S* output;          // (rows, H), rows output_stride apart
  int64_t output_stride;
  S *h_n, *c_n;  // (B, H)
  bool relu;     // of the Elman cell, instead of tanh
};

// What all cells do alike. kGates: rows of the weights for a unit; kRowTiles * 16 rows hold kUnits
// units.
template <class S, int kGates, int kTiles>
struct ForwardWork : ForwardLoop<S> {
  static constexpr int kSums = kGates, kRowTiles = kTiles;
  static constexpr int kUnits = kTiles * kTileRows / kGates;
  static constexpr int kKeptChunks = kept_chunks<S>(kTiles);

  struct Step {
    int64_t rows, offset, before, after;
  };
  struct Pair {
    float gate[4];
    float state, h;
  };

  SEQKERN_DEVICE static int weight_row(int first_unit, int row, int hidden) {
    const int unit = first_unit + row / kGates;
    return row / kGates < kUnits && unit < hidden ? row % kGates * hidden + unit : -1;
  }
  SEQKERN_DEVICE static int sum_row(int unit, int i) { return unit * kGates + i; }

  SEQKERN_DEVICE Step step(int64_t iteration) const {
    const LoopSteps& steps = this->loop.steps;
    return {steps.alive(iteration), steps.offset(iteration), steps.alive(iteration - 1),
            steps.alive(iteration + 1)};
  }

  // A unit's pre-activations of `n` gates as far as the input and the biases give them.
  template <int n>
  SEQKERN_DEVICE void fetch_gates(const Step& step, int64_t row, int64_t unit, Pair* pair) const {
    const int64_t hidden = this->loop.hidden;
    const S* inputs = this->inputs + (step.offset + row) * this->gates_stride + unit;
    SEQKERN_UNROLL
    for (int i = 0; i < n; ++i) {
      pair->gate[i] = device::load(this->bias + i * hidden + unit);
      if (this->inputs) pair->gate[i] += device::load(inputs + i * hidden);
    }
  }

  SEQKERN_DEVICE void publish(const Pair& pair, int64_t unit, S* exchange, S* next) const {
    device::store(exchange + unit, pair.h);
    if (next) device::store(next + unit, pair.h);
  }

  // The state that a row brings along, or begins with.
  SEQKERN_DEVICE float fetch_state(const Step& step, const S* first, int64_t row,
                                   int64_t unit) const {
    const int64_t at = row * this->loop.hidden + unit;
    if (row < step.before) return device::load(this->state + at);
    return first ? device::load(first + at) : 0.0f;
  }

  SEQKERN_DEVICE void save_state(const Step& step, const Pair& pair, int64_t row,
                                 int64_t unit) const {
    device::store(this->state + row * this->loop.hidden + unit, pair.state);
    if (!this->gates) return;
    S* gates = this->gates + (step.offset + row) * this->gates_stride + unit;
    SEQKERN_UNROLL
    for (int i = 0; i < 4; ++i) device::store(gates + i * this->loop.hidden, pair.gate[i]);
  }

  SEQKERN_DEVICE void save_output(const Step& step, const Pair& pair, int64_t row,
                                  int64_t unit) const {
    const int64_t hidden = this->loop.hidden;
    device::store(this->output + (step.offset + row) * this->output_stride + unit, pair.h);
    if (row >= step.after) device::store(this->h_n + row * hidden + unit, pair.h);
  }
};

template <class S>
struct LstmForward : ForwardWork<S, 4, 2> {
  using Base = ForwardWork<S, 4, 2>;
  using typename Base::Pair, typename Base::Step;

  SEQKERN_DEVICE Pair fetch(const Step& step, int64_t row, int64_t unit) const {
    Pair pair;
    this->template fetch_gates<4>(step, row, unit, &pair);
    pair.state = this->fetch_state(step, this->c0, row, unit);
    return pair;
  }

  SEQKERN_DEVICE void finish(const Step&, Pair& pair, const float* sums, int64_t, int64_t unit,
                             S* exchange, S* next) const {
    SEQKERN_UNROLL
    for (int i = 0; i < 4; ++i) pair.gate[i] += sums[i];
    pair.h = lstm_cell(pair.gate[0], pair.gate[1], pair.gate[2], pair.gate[3], pair.state);
    this->publish(pair, unit, exchange, next);
  }

  SEQKERN_DEVICE void save(const Step& step, const Pair& pair, int64_t row, int64_t unit) const {
    const int64_t hidden = this->loop.hidden;
    this->save_output(step, pair, row, unit);
    this->save_state(step, pair, row, unit);
    if (this->cells) device::store(this->cells + (step.offset + row) * hidden + unit, pair.state);
    if (row >= step.after) device::store(this->c_n + row * hidden + unit, pair.state);
  }
};

// kSums: 3, or 4 in a wave: there the product forms n's input part, too, apart from the state's.
template <class S, int kSums>
struct AnyGruForward : ForwardWork<S, kSums, 2> {
  using Base = ForwardWork<S, kSums, 2>;
  using typename Base::Pair, typename Base::Step;

  SEQKERN_DEVICE Pair fetch(const Step& step, int64_t row, int64_t unit) const {
    Pair pair;
    this->template fetch_gates<3>(step, row, unit, &pair);
    pair.gate[3] = device::load(this->bias + 3 * this->loop.hidden + unit);
    pair.state = this->fetch_state(step, this->h0, row, unit);
    return pair;
  }

  // The gate after n is the state's part of it, which the gradient needs.
  SEQKERN_DEVICE void finish(const Step&, Pair& pair, const float* sums, int64_t, int64_t unit,
                             S* exchange, S* next) const {
    pair.gate[0] += sums[0];
    pair.gate[1] += sums[1];
    if constexpr (kSums == 4) pair.gate[2] += sums[2];
    pair.gate[3] += sums[kSums - 1];
    pair.h = gru_cell(pair.gate[0], pair.gate[1], pair.gate[2], pair.gate[3], pair.state);
    pair.state = pair.h;
    this->publish(pair, unit, exchange, next);
  }

  SEQKERN_DEVICE void save(const Step& step, const Pair& pair, int64_t row, int64_t unit) const {
    this->save_output(step, pair, row, unit);
    this->save_state(step, pair, row, unit);
  }
};

template <class S>
struct GruForward : AnyGruForward<S, 3> {};
template <class S>
struct GruWaveForward : AnyGruForward<S, 4> {};

template <class S>
struct RnnForward : ForwardWork<S, 1, 1> {
  using Base = ForwardWork<S, 1, 1>;
  using typename Base::Pair, typename Base::Step;

  SEQKERN_DEVICE Pair fetch(const Step& step, int64_t row, int64_t unit) const {
    Pair pair;
    this->template fetch_gates<1>(step, row, unit, &pair);
    return pair;
  }

  SEQKERN_DEVICE void finish(const Step&, Pair& pair, const float* sums, int64_t, int64_t unit,
                             S* exchange, S* next) const {
    const float x = pair.gate[0] + sums[0];
    pair.h = this->relu ? rnn_cell<true>(x) : rnn_cell<false>(x);
    this->publish(pair, unit, exchange, next);
  }

  SEQKERN_DEVICE void save(const Step& step, const Pair& pair, int64_t row, int64_t unit) const {
    this->save_output(step, pair, row, unit);
  }
};

template <class S, template <class> class Work>
SEQKERN_KERNEL SEQKERN_MOST_THREADS(kMostWarps* kWarpThreads)
    forward_loop_kernel(SEQKERN_CONSTANT Tasks<Work<S>> tasks) {
  SEQKERN_DYNAMIC_SHARED(float, shared);
  run_task(tasks, shared);
}

}  // namespace seqkern
