// Layers' tasks beside their loops: the products for gradients, and the calls of one layer in one
// direction, for every cell.
#include "recurrent/cuda/prepare_kernels.cuh"
#include "recurrent/cuda/tasks.h"

namespace seqkern {
namespace {

template <class S>
void fill_states_before(const BackwardTask& task, const Tensor& before) {
  const CudaLayer& layer = *task.layer;
  Operands operands;
  const device::Grid grid = {static_cast<int>(std::clamp<int64_t>(layer.steps(), 1, 4096)), 256};
  device::launch(states_before_kernel<S>, grid, stream_of(layer.input), layer.loop_steps(&operands),
                 layer.sizes.hidden, operands.in<S>("output", task.output), task.output.stride(0),
                 operands.in<S>("h0", layer.h0), operands.out<S>("before", before));
}

// For each row the state before its step.
Tensor states_before(const BackwardTask& task) {
  const Tensor before = task.layer->make({task.layer->rows, task.layer->sizes.hidden});
  switch (task.layer->dtype) {
    case ScalarType::BFloat16:
      fill_states_before<device::bfloat16>(task, before);
      break;
    case ScalarType::Half:
      fill_states_before<device::float16>(task, before);
      break;
    default:
      fill_states_before<float>(task, before);
  }
  return before;
}

// Float32 sums over the rows of a matrix.
Tensor sums_over_rows(const CudaLayer& layer, const Tensor& grads) {
  Tensor sums = layer.make({grads.size(1)}, ScalarType::Float);
  const int64_t over_rows[] = {0};
  torch::stable::sum_out(sums, grads, over_rows, false, ScalarType::Float);
  return sums;
}

// `count` elements of one vector into another, from and to these places on.
void copy_piece(const Tensor& to, int64_t first, int64_t count, const Tensor& from) {
  Tensor target = matrix(to, 1, count, count, 1, first);
  torch::stable::copy_(target, matrix(from, 1, count, count, 1));
}

}  // namespace

WeightGradients weight_gradients(const BackwardTask& task, int64_t needs) {
  const CudaLayer& layer = *task.layer;
  const Tensor& grads = task.grad_gates;
  const int64_t hidden = layer.sizes.hidden, rows = layer.rows, width = layer.gates * hidden;
  const bool gru = layer.cell == Cell::kGru;
  const auto none = [&] { return layer.make({0}); };
  const Tensor by_gate = torch::stable::transpose(grads, 0, 1);
  WeightGradients found{none(), none(), none(), none()};
  if (needs & kNeedsInputWeights) {
    found.w_ih = layer.make({width, layer.input_size});
    product_out(found.w_ih, by_gate, layer.input_rows());
  }
  if (needs & kNeedsStateWeights) {
    found.w_hh = layer.make({width, hidden});
    const Tensor before = states_before(task);
    const int64_t together = gru ? 2 * hidden : width;
    product_out(matrix(found.w_hh, together, hidden, hidden, 1),
                matrix(grads, together, rows, 1, grads.stride(0)), before);
    if (gru)
      product_out(matrix(found.w_hh, hidden, hidden, hidden, 1, together * hidden),
                  torch::stable::transpose(*task.grad_state_part, 0, 1), before);
  }
  if (needs & kNeedsBiases) {
    const Tensor sums = sums_over_rows(layer, grads);
    found.b_ih = layer.make({width});
    copy_piece(found.b_ih, 0, width, sums);
    if (gru) {
      found.b_hh = layer.make({width});
      copy_piece(found.b_hh, 0, 2 * hidden, sums);
      copy_piece(found.b_hh, 2 * hidden, hidden, sums_over_rows(layer, *task.grad_state_part));
    }
  }
  return found;
}

Tensor input_gradient(const std::vector<const CudaLayer*>& layers, const Tensor& grads) {
  const CudaLayer& first = *layers[0];
  const int64_t features = first.input_size, width = first.w_ih.size(0);
  const Tensor found = first.make(first.shape_with(features));
  Tensor weights = first.w_ih;
  if (layers.size() > 1) {  // side by side, so that the sum over them is formed in one product
    weights = first.make({static_cast<int64_t>(layers.size()) * width, features});
    for (size_t i = 0; i < layers.size(); ++i) {
      Tensor part = CudaLayer::piece(weights, static_cast<int64_t>(i), width, features);
      torch::stable::copy_(part, layers[i]->w_ih);
    }
  }
  product_out(first.rows_by(found, features, features), grads, weights);
  return found;
}

ForwardResult forward_layer(const CudaLayer& layer, const ForwardExtras& extras) {
  const int64_t hidden = layer.sizes.hidden;
  const bool lstm = layer.cell == Cell::kLstm;
  const bool keep_gates = extras.save && (lstm || layer.cell == Cell::kGru);
  const auto none = [&](ScalarType type) { return layer.make({0}, type); };
  const Shape states = layer.state_shape(hidden);
  ForwardTask task{};
  task.layer = &layer;
  task.c0 = layer.given("c0", extras.c0, states);
  layer.check_biases(extras.b_ih, extras.b_hh);
  check(!extras.packed, "packed weights are for the CPU kernels: seqkern.unprepack_ the module");
  task.b_ih = layer.given("b_ih", extras.b_ih, {layer.gates * hidden});
  task.b_hh = layer.given("b_hh", extras.b_hh, {layer.gates * hidden});

  ForwardResult result{layer.make(layer.shape_with(hidden)),
                       layer.make(states),
                       lstm ? layer.make(states) : none(layer.dtype),
                       keep_gates ? layer.make(layer.shape_with(4 * hidden)) : none(layer.dtype),
                       extras.save && lstm ? layer.make(layer.shape_with(hidden), ScalarType::Float)
                                           : none(ScalarType::Float),
                       none(layer.dtype)};
  if (layer.rows == 0) return result;
  task.output = layer.rows_by(result.output, hidden, hidden);
  task.h_n = result.h_n;
  if (lstm) task.c_n = result.c_n;
  if (keep_gates) task.gates = layer.rows_by(result.gates, 4 * hidden, 4 * hidden);
  if (extras.save && lstm) task.cells = layer.rows_by(result.cells, hidden, hidden);
  run_tasks(ForwardTasks{task});
  return result;
}

BackwardResult backward_layer(const CudaLayer& layer, const BackwardExtras& extras) {
  const int64_t hidden = layer.sizes.hidden, needs = extras.needs, width = layer.gates * hidden;
  const bool lstm = layer.cell == Cell::kLstm, gru = layer.cell == Cell::kGru;
  const Shape states = layer.state_shape(hidden), all = layer.shape_with(hidden);
  const auto by_rows = [&](OptionalTensor t, int64_t columns) {
    return t ? OptionalTensor(layer.rows_by(*t, columns, columns)) : t;
  };
  BackwardTask task{};
  task.layer = &layer;
  task.output = *by_rows(layer.given("output", extras.output, all), hidden);
  task.grad_output = by_rows(layer.given("grad_output", extras.grad_output, all), hidden);
  task.grad_h_n = layer.given("grad_h_n", extras.grad_h_n, states);
  if (lstm) {
    task.c0 = layer.given("c0", extras.c0, states);
    task.grad_c_n = layer.given("grad_c_n", extras.grad_c_n, states);
    task.cells = by_rows(layer.given("cells", extras.cells, all, ScalarType::Float), hidden);
  }
  if (lstm || gru) {
    const Shape shape = layer.shape_with(4 * hidden);
    task.gates = by_rows(layer.given("gates", extras.gates, shape), 4 * hidden);
  }
  task.grad_gates = layer.make({layer.rows, width});
  if (gru) task.grad_state_part = layer.make({layer.rows, hidden});
  if (needs & kNeedsH0) task.grad_h0 = layer.make(states);
  if (needs & kNeedsC0 && lstm) task.grad_c0 = layer.make(states);
  if (layer.rows > 0) run_tasks(BackwardTasks{task});

  const auto none = [&] { return layer.make({0}); };
  BackwardResult result{none(), none(), none(), none(), none(), none(), none(), none()};
  const WeightGradients weights = weight_gradients(task, needs);
  if (needs & kNeedsInput) result.grad_input = input_gradient({&layer}, task.grad_gates);
  if (task.grad_h0) result.grad_h0 = *task.grad_h0;
  if (task.grad_c0) result.grad_c0 = *task.grad_c0;
  result.grad_w_ih = weights.w_ih;
  result.grad_w_hh = weights.w_hh;
  result.grad_b_ih = weights.b_ih;
  result.grad_b_hh = weights.b_hh;
  return result;
}

}  // namespace seqkern
