// The tasks of tasks.h by the kernels of one cell, in the dtype of the call.
#pragma once

#include "recurrent/cuda/backward_kernels.cuh"
#include "recurrent/cuda/forward_kernels.cuh"
#include "recurrent/cuda/launches.h"
#include "recurrent/cuda/tasks.h"

namespace seqkern {

// Copies a matrix into a larger one, from this row and column on.
inline void put(const Tensor& to, int64_t row, int64_t column, const Tensor& from) {
  Tensor place =
      matrix(to, from.size(0), from.size(1), to.stride(0), 1, row * to.stride(0) + column);
  torch::stable::copy_(place, from);
}

// What the loop of a layer in a wave multiplies its own states by and, from the depth `own` on,
// what the layer below makes: a row for each of kSums sums of a unit. The GRU's third sum is n's
// input part, its fourth n's state part.
template <int kSums>
Tensor forward_wave_weights(const CudaLayer& layer, bool first, int64_t own) {
  const int64_t hidden = layer.sizes.hidden;
  const bool gru = layer.cell == Cell::kGru;
  if (first && !gru) return layer.w_hh;
  Tensor all = layer.make({kSums * hidden, first ? hidden : own + hidden});
  if (gru || own > hidden) torch::stable::zero_(all);
  if (gru) {
    put(all, 0, 0, matrix(layer.w_hh, 2 * hidden, hidden, hidden, 1));
    put(all, 3 * hidden, 0, CudaLayer::piece(layer.w_hh, 2, hidden, hidden));
  } else {
    put(all, 0, 0, layer.w_hh);
  }
  if (!first) put(all, 0, own, layer.w_ih);
  return all;
}

// The same for the gradients of the layer's own gates and, if there is one, of the layer above.
inline Tensor backward_wave_weights(const CudaLayer& layer, const CudaLayer* above, int64_t own) {
  const int64_t hidden = layer.sizes.hidden, gates = layer.gates * hidden;
  const Tensor by_unit = torch::stable::transpose(layer.w_hh, 0, 1);
  if (!above) return by_unit;
  Tensor all = layer.make({hidden, own + gates});
  if (own > gates) torch::stable::zero_(all);
  put(all, 0, 0, by_unit);
  put(all, 0, own, torch::stable::transpose(above->w_ih, 0, 1));
  return all;
}

template <class S, template <class> class Work>
void forward_loops(const ForwardTasks& tasks, bool wave) {
  const CudaLayer& any = *tasks[0].layer;
  const int64_t hidden = any.sizes.hidden, count = static_cast<int64_t>(tasks.size());
  const bool gru = any.cell == Cell::kGru;
  const int64_t biases = (gru ? 4 : any.gates) * hidden;
  const int64_t stride = (tasks[0].gates ? 4 : any.gates) * hidden;
  const Tensor bias = any.make({count, biases}, ScalarType::Float);
  const Tensor state = any.make({count, any.batch, hidden}, ScalarType::Float);
  std::vector<OptionalTensor> gates;
  std::vector<Tensor> weights;
  std::vector<const CudaLayer*> layers;
  for (const ForwardTask& task : tasks) {
    const CudaLayer& layer = *task.layer;
    const bool projected = !wave || layers.empty();
    gates.push_back(task.gates);
    if (projected) {
      if (!gates.back()) gates.back() = layer.make({layer.rows, stride});
      product_out(layer.rows_by(*gates.back(), layer.gates * hidden, stride), layer.input_rows(),
                  torch::stable::transpose(layer.w_ih, 0, 1));
    }
    weights.push_back(
        wave ? forward_wave_weights<Work<S>::kSums>(layer, projected, padded<S>(hidden))
             : layer.w_hh);
    layers.push_back(&layer);
  }

  Operands operands;
  Launches<S, Work<S>> launches(layers, weights, 0, wave, &operands);
  float* bias_sums = operands.out<float>("bias", bias);
  float* states = operands.out<float>("state", state);
  for (int64_t i = 0; i < count; ++i) {
    const ForwardTask& task = tasks[i];
    Work<S>& work = launches.works[i];
    S* place = operands.out<S>("gates", gates[i]);
    work.inputs = wave && i > 0 ? nullptr : place;
    work.gates = task.gates ? place : nullptr;
    work.gates_stride = stride;
    work.bias = bias_sums + i * biases;
    work.h0 = operands.in<S>("h0", task.layer->h0);
    work.c0 = operands.in<S>("c0", task.c0);
    work.state = states + i * any.batch * hidden;
    work.cells = operands.out<float>("cells", task.cells);
    work.output = operands.out<S>("output", task.output);
    work.output_stride = task.output.stride(0);
    work.h_n = operands.out<S>("h_n", task.h_n);
    work.c_n = operands.out<S>("c_n", task.c_n);
    work.relu = task.layer->cell == Cell::kRnnRelu;
    launches.preparations[i].first = work.h0;
    launches.preparations[i].bias = bias_sums + i * biases;
    launches.preparations[i].b_ih = operands.in<S>("b_ih", task.b_ih);
    launches.preparations[i].b_hh = operands.in<S>("b_hh", task.b_hh);
  }
  launches.run(forward_loop_kernel<S, Work>);
}

template <class S, template <class> class Work>
void backward_loops(const BackwardTasks& tasks, bool wave) {
  const CudaLayer& any = *tasks[0].layer;
  const int64_t hidden = any.sizes.hidden, count = static_cast<int64_t>(tasks.size());
  const Tensor carry = any.make({count, any.batch, hidden}, ScalarType::Float);
  std::vector<Tensor> weights;
  std::vector<const CudaLayer*> layers;
  for (const BackwardTask& task : tasks) {
    const CudaLayer* above = layers.empty() ? nullptr : layers.back();
    weights.push_back(wave
                          ? backward_wave_weights(*task.layer, above, padded<S>(any.gates * hidden))
                          : torch::stable::transpose(task.layer->w_hh, 0, 1));
    layers.push_back(task.layer);
  }

  Operands operands;
  // One iteration more than there are steps, for the gradients of the initial states.
  Launches<S, Work<S>> launches(layers, weights, 1, wave, &operands);
  float* carries = operands.out<float>("carry", carry);
  for (int64_t i = 0; i < count; ++i) {
    const BackwardTask& task = tasks[i];
    Work<S>& work = launches.works[i];
    work.gates = operands.in<S>("gates", task.gates);
    work.cells = operands.in<float>("cells", task.cells);
    work.output = operands.in<S>("output", task.output);
    work.output_stride = task.output.stride(0);
    work.h0 = operands.in<S>("h0", task.layer->h0);
    work.c0 = operands.in<S>("c0", task.c0);
    work.grad_output = operands.in<S>("grad_output", task.grad_output);
    work.grad_h_n = operands.in<S>("grad_h_n", task.grad_h_n);
    work.grad_c_n = operands.in<S>("grad_c_n", task.grad_c_n);
    work.grad_gates = operands.out<S>("grad_gates", task.grad_gates);
    work.grad_gates_stride = task.grad_gates.stride(0);
    work.grad_state_part = operands.out<S>("grad_state_part", task.grad_state_part);
    work.carry = carries + i * any.batch * hidden;
    work.grad_h0 = operands.out<S>("grad_h0", task.grad_h0);
    work.grad_c0 = operands.out<S>("grad_c0", task.grad_c0);
    work.relu = task.layer->cell == Cell::kRnnRelu;
  }
  launches.run(backward_loop_kernel<S, Work>);
}

// Calls `run` with a number of the layer's dtype.
template <class Run>
auto by_dtype(const CudaLayer& layer, const Run& run) {
  switch (layer.dtype) {
    case ScalarType::BFloat16:
      return run(device::bfloat16{});
    case ScalarType::Half:
      return run(device::float16{});
    default:
      return run(float{});
  }
}

template <template <class> class Work>
void run_forward(const ForwardTasks& tasks, bool wave) {
  by_dtype(*tasks[0].layer,
           [&](auto number) { forward_loops<decltype(number), Work>(tasks, wave); });
}

template <template <class> class Work>
void run_backward(const BackwardTasks& tasks, bool wave) {
  by_dtype(*tasks[0].layer,
           [&](auto number) { backward_loops<decltype(number), Work>(tasks, wave); });
}

// See wave_of in tasks.h. Alone: the forward Work of a single layer.
template <template <class> class Alone, template <class> class Wave,
          template <class> class Backward>
int planned_wave(const CudaLayer& layer, int64_t layers, bool backward) {
  const int64_t hidden = layer.sizes.hidden, gates = layer.gates * hidden;
  const double flops = 2.0 * static_cast<double>(layer.rows) * gates * hidden;
  return by_dtype(layer, [&](auto number) {
    using S = decltype(number);
    const int64_t depth = backward ? gates : hidden, steps = layer.steps();
    const int64_t both = padded<S>(depth) + depth;
    if (backward) {
      return wave_of(loop_shape<S, Backward<S>>(layer, depth, steps + 1, 1, false),
                     loop_shape<S, Backward<S>>(layer, both, steps + 1, 1, true), layers, flops,
                     layer.input);
    }
    return wave_of(loop_shape<S, Alone<S>>(layer, depth, steps, 1, false),
                   loop_shape<S, Wave<S>>(layer, both, steps, 1, true), layers, flops, layer.input);
  });
}

}  // namespace seqkern
