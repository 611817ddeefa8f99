// The tasks of layer_tasks.h by the kernels of one cell, in the dtype of the call.
#pragma once

#include "recurrent/layer_backward_kernels.cuh"
#include "recurrent/layer_forward_kernels.cuh"
#include "recurrent/layer_launches.h"
#include "recurrent/layer_tasks.h"

namespace seqkern {

template <class S, template <class> class Work>
void forward_loops(const ForwardTasks& tasks) {
  const CudaLayer& any = *tasks[0].layer;
  const int64_t hidden = any.sizes.hidden, count = static_cast<int64_t>(tasks.size());
  const bool gru = any.cell == Cell::kGru;
  const int64_t biases = (gru ? 4 : any.gates) * hidden;
  const int64_t stride = (tasks[0].gates ? 4 : any.gates) * hidden;
  const Tensor bias = any.make({count, biases}, ScalarType::Float);
  const Tensor state = any.make({count, any.batch, hidden}, ScalarType::Float);
  std::vector<Tensor> gates, weights;
  std::vector<const CudaLayer*> layers;
  for (const ForwardTask& task : tasks) {
    const CudaLayer& layer = *task.layer;
    gates.push_back(task.gates ? *task.gates : layer.make({layer.rows, stride}));
    product_out(layer.rows_by(gates.back(), layer.gates * hidden, gates.back().stride(0)),
                layer.input_rows(), torch::stable::transpose(layer.w_ih, 0, 1));
    weights.push_back(layer.w_hh);
    layers.push_back(&layer);
  }

  Operands operands;
  Launches<S, Work<S>> launches(layers, weights, 0, &operands);
  float* bias_sums = operands.out<float>("bias", bias);
  float* states = operands.out<float>("state", state);
  for (int64_t i = 0; i < count; ++i) {
    const ForwardTask& task = tasks[i];
    Work<S>& work = launches.works[i];
    S* inputs = operands.out<S>("gates", gates[i]);
    work.inputs = inputs;
    work.gates = task.gates ? inputs : nullptr;
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
void backward_loops(const BackwardTasks& tasks) {
  const CudaLayer& any = *tasks[0].layer;
  const int64_t hidden = any.sizes.hidden, count = static_cast<int64_t>(tasks.size());
  const Tensor carry = any.make({count, any.batch, hidden}, ScalarType::Float);
  std::vector<Tensor> weights;
  std::vector<const CudaLayer*> layers;
  for (const BackwardTask& task : tasks) {
    weights.push_back(torch::stable::transpose(task.layer->w_hh, 0, 1));
    layers.push_back(task.layer);
  }

  Operands operands;
  // One iteration more than there are steps, for the gradients of the initial states.
  Launches<S, Work<S>> launches(layers, weights, 1, &operands);
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

template <template <class> class Work>
void run_forward(const ForwardTasks& tasks) {
  switch (tasks[0].layer->dtype) {
    case ScalarType::BFloat16:
      return forward_loops<device::bfloat16, Work>(tasks);
    case ScalarType::Half:
      return forward_loops<device::float16, Work>(tasks);
    default:
      return forward_loops<float, Work>(tasks);
  }
}

template <template <class> class Work>
void run_backward(const BackwardTasks& tasks) {
  switch (tasks[0].layer->dtype) {
    case ScalarType::BFloat16:
      return backward_loops<device::bfloat16, Work>(tasks);
    case ScalarType::Half:
      return backward_loops<device::float16, Work>(tasks);
    default:
      return backward_loops<float, Work>(tasks);
  }
}

}  // namespace seqkern
