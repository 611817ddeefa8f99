// Whole stacks of recurrent layers on a GPU: both directions of a layer side by side, and layers
// one after the other or as a wave.
#include <deque>
#include <tuple>

#include "recurrent/cuda/tasks.h"

namespace seqkern {
namespace {

using ThreeTensors = std::tuple<Tensor, Tensor, Tensor>;
using SixTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
using ThreeTensorsAndMany = std::tuple<Tensor, Tensor, Tensor, std::vector<Tensor>>;

// A call's arguments: `weights` are those of torch.nn's flat_weights, without projections, and a
// layer and direction is a `place`, in their order.
class Stack {
 public:
  Stack(int64_t cell, const Tensor& input, const OptionalTensor& h0, const OptionalTensor& c0,
        const std::vector<Tensor>& weights, const OptionalTensor& batch_sizes, bool bias,
        bool bidirectional)
      : directions(bidirectional ? 2 : 1),
        cell_(static_cast<Cell>(cell)),
        h0_(as_contiguous(h0)),
        c0_(as_contiguous(c0)),
        weights_(weights),
        batch_sizes_(batch_sizes),
        each_(bias ? 4 : 2) {
    check(0 <= cell && cell < kCells, "cell should be from 0 to ", kCells - 1, ", but it is ",
          cell);
    check(!weights.empty() && static_cast<int64_t>(weights.size()) % (each_ * directions) == 0,
          "weights should be ", each_, " for each layer and direction, but there are ",
          weights.size());
    places = static_cast<int64_t>(weights.size()) / each_;
    layers = places / directions;
    check(weights[1].dim() == 2, "w_hh should have 2 dimensions, but it has ", weights[1].dim());
    hidden = weights[1].size(1);
    for (const auto& [name, state] :
         {std::pair<const char*, const OptionalTensor&>{"h0", h0_}, {"c0", c0_}})
      if (state)
        check(state->dim() == 3 && state->size(0) == places && state->size(2) == hidden, name,
              " should have the shape (", places, ", batch, ", hidden, "), but it has the shape ",
              shape_text(*state));
    for (int64_t direction = 0; direction < directions; ++direction) add(input);
  }

  const int64_t directions;
  int64_t places, layers, hidden;

  const CudaLayer& first() const { return known_.front(); }
  // The layers in order; one is there when the layer below has been asked for its output.
  const CudaLayer& at(int64_t place) const { return known_[place]; }
  int64_t place_of(const CudaLayer& layer) const {
    int64_t place = 0;
    while (&at(place) != &layer) ++place;
    return place;
  }
  std::vector<const CudaLayer*> both(int64_t layer) const {
    std::vector<const CudaLayer*> found;
    for (int64_t i = 0; i < directions; ++i) found.push_back(&at(layer * directions + i));
    return found;
  }
  // Makes known the next layer, whose input is the output of the layer below.
  void next_layer(const Tensor& input) {
    for (int64_t direction = 0; direction < directions; ++direction) add(input);
  }

  OptionalTensor state(const OptionalTensor& all, int64_t place) const {
    if (!all) return all;
    return CudaLayer::piece(*all, place, all->size(1), hidden);
  }
  OptionalTensor c0(int64_t place) const {
    if (first().cell != Cell::kLstm) return std::nullopt;
    return first().given("c0", state(c0_, place), first().state_shape(hidden));
  }
  OptionalTensor bias(int64_t place, int which) const {
    if (each_ == 2) return std::nullopt;
    return first().given(which ? "b_hh" : "b_ih", weights_[place * each_ + 2 + which],
                         {first().gates * hidden});
  }

  Shape states() const { return {places, first().batch, hidden}; }
  // `count` times what each row has `features` of.
  Shape many(int64_t count, int64_t features) const {
    Shape shape = first().shape_with(features);
    shape.insert(shape.begin(), count);
    return shape;
  }
  // A direction's columns of a layer's output.
  Tensor columns(const Tensor& output, int64_t place) const {
    return first().rows_by(output, hidden, directions * hidden, place % directions * hidden);
  }
  // A place's rows of what all places save.
  Tensor rows_of(const Tensor& saved, int64_t place, int64_t features) const {
    return CudaLayer::piece(saved, place, first().rows, features);
  }

 private:
  void add(const Tensor& input) {
    const int64_t place = static_cast<int64_t>(known_.size());
    const Tensor* weights = &weights_[place * each_];
    check(weights[1].dim() == 2 && weights[1].size(1) == hidden,
          "w_hh should be as wide in all layers: ", hidden);
    const LayerArguments arguments = {
        cell_,      input,        state(h0_, place), weights[0],
        weights[1], std::nullopt, batch_sizes_,      place % directions == 1};
    known_.emplace_back(arguments, known_.empty() ? nullptr : &known_.front());
  }

  const Cell cell_;
  const OptionalTensor h0_, c0_;
  const std::vector<Tensor>& weights_;
  const OptionalTensor batch_sizes_;
  const int64_t each_;  // weights of a place
  std::deque<CudaLayer> known_;
};

SixTensors stack_forward(const Tensor& input, const OptionalTensor& h0, const OptionalTensor& c0,
                         const std::vector<Tensor>& weights, const OptionalTensor& batch_sizes,
                         int64_t cell, bool bias, bool bidirectional, bool save) {
  const OnDeviceOf guard(input);
  Stack stack(cell, input, h0, c0, weights, batch_sizes, bias, bidirectional);
  const CudaLayer& any = stack.first();
  const int64_t hidden = stack.hidden, width = stack.directions * hidden;
  const bool lstm = any.cell == Cell::kLstm, gated = lstm || any.cell == Cell::kGru;
  const auto none = [&](ScalarType type) { return any.make({0}, type); };

  const Tensor output = any.make(any.shape_with(width)), h_n = any.make(stack.states());
  const Tensor c_n = lstm ? any.make(stack.states()) : none(any.dtype);
  const Tensor below = any.make(stack.many(stack.layers - 1, width));
  const Tensor gates =
      save && gated ? any.make(stack.many(stack.places, 4 * hidden)) : none(any.dtype);
  const Tensor cells = save && lstm ? any.make(stack.many(stack.places, hidden), ScalarType::Float)
                                    : none(ScalarType::Float);
  const int wave = stack.directions == 1 ? wave_of(any, stack.layers, false) : 1;
  ForwardTasks tasks;
  for (int64_t layer = 0; layer < stack.layers; ++layer) {
    const bool last = layer + 1 == stack.layers;
    const Tensor to = last ? output : torch::stable::select(below, 0, layer);
    for (int64_t i = 0; i < stack.directions; ++i) {
      const int64_t place = layer * stack.directions + i;
      ForwardTask task{};
      task.layer = &stack.at(place);
      task.c0 = stack.c0(place);
      task.b_ih = stack.bias(place, 0);
      task.b_hh = stack.bias(place, 1);
      task.output = stack.columns(to, place);
      task.h_n = *stack.state(h_n, place);
      if (lstm) task.c_n = stack.state(c_n, place);
      if (save && gated) task.gates = stack.rows_of(gates, place, 4 * hidden);
      if (save && lstm) task.cells = stack.rows_of(cells, place, hidden);
      tasks.push_back(task);
    }
    if (last || (layer + 1) % wave == 0) {
      if (any.rows > 0) run_tasks(tasks, tasks.size() > 1 && wave > 1);
      tasks.clear();
    }
    if (!last) stack.next_layer(to);
  }
  return {output, h_n, c_n, save ? below : none(any.dtype), gates, cells};
}

ThreeTensorsAndMany stack_backward(const OptionalTensor& grad_output,
                                   const OptionalTensor& grad_h_n, const OptionalTensor& grad_c_n,
                                   const Tensor& input, const OptionalTensor& h0,
                                   const OptionalTensor& c0, const std::vector<Tensor>& weights,
                                   const OptionalTensor& batch_sizes, const Tensor& output,
                                   const Tensor& below, const Tensor& gates, const Tensor& cells,
                                   int64_t cell, bool bias, bool bidirectional,
                                   const std::vector<int64_t>& needs) {
  const OnDeviceOf guard(input);
  Stack stack(cell, input, h0, c0, weights, batch_sizes, bias, bidirectional);
  const CudaLayer& any = stack.first();
  const int64_t hidden = stack.hidden, width = stack.directions * hidden;
  const bool lstm = any.cell == Cell::kLstm, gru = any.cell == Cell::kGru;
  check(static_cast<int64_t>(needs.size()) == stack.places, "needs should have ", stack.places,
        " elements, one for each layer and direction, but it has ", needs.size());
  const auto given = [&](const char* name, const OptionalTensor& t, const Shape& shape) {
    return any.given(name, t, shape);
  };
  const OptionalTensor outputs = given("output", output, any.shape_with(width));
  const OptionalTensor belows = given("hidden", below, stack.many(stack.layers - 1, width));
  const OptionalTensor h_n_grads = given("grad_h_n", grad_h_n, stack.states());
  OptionalTensor grad = given("grad_output", grad_output, any.shape_with(width));
  OptionalTensor c_n_grads, all_gates, all_cells;
  if (lstm || gru) all_gates = given("gates", gates, stack.many(stack.places, 4 * hidden));
  if (lstm) {
    c_n_grads = given("grad_c_n", grad_c_n, stack.states());
    all_cells = any.given("cells", cells, stack.many(stack.places, hidden), ScalarType::Float);
  }
  for (int64_t layer = 1; layer < stack.layers; ++layer)
    stack.next_layer(torch::stable::select(*belows, 0, layer - 1));

  const auto none = [&] { return any.make({0}); };
  const bool wants_input = needs[0] & kNeedsInput, wants_h0 = needs[0] & kNeedsH0,
             wants_c0 = lstm && needs[0] & kNeedsC0;
  const Tensor grad_h0 = wants_h0 ? any.make(stack.states()) : none();
  const Tensor grad_c0 = wants_c0 ? any.make(stack.states()) : none();
  // The place from which on somebody wants a gradient.
  int64_t lowest = 0;
  if (!(wants_input || wants_h0 || wants_c0))
    while (lowest < stack.places && needs[lowest] == 0) ++lowest;
  std::vector<Tensor> found;
  for (int64_t i = 0; i < 4 * stack.places; ++i) found.push_back(none());
  const int64_t gate_columns = any.gates * hidden, lowest_layer = lowest / stack.directions;
  const int64_t layers = stack.layers - lowest_layer;
  const int wave = stack.directions == 1 && layers > 1 ? wave_of(any, layers, true) : 1;
  BackwardTasks tasks;
  for (int64_t layer = stack.layers - 1; layer >= lowest_layer; --layer) {
    const bool last = layer + 1 == stack.layers;
    const Tensor from = last ? *outputs : torch::stable::select(*belows, 0, layer);
    const Tensor grads = any.make({any.rows, stack.directions * gate_columns});
    for (int64_t i = 0; i < stack.directions; ++i) {
      const int64_t place = layer * stack.directions + i;
      BackwardTask task{};
      task.layer = &stack.at(place);
      task.c0 = stack.c0(place);
      if (grad && (wave == 1 || tasks.empty())) task.grad_output = stack.columns(*grad, place);
      task.grad_h_n = stack.state(h_n_grads, place);
      task.grad_c_n = stack.state(c_n_grads, place);
      task.output = stack.columns(from, place);
      if (all_gates) task.gates = stack.rows_of(*all_gates, place, 4 * hidden);
      if (all_cells) task.cells = stack.rows_of(*all_cells, place, hidden);
      task.grad_gates =
          any.rows_by(grads, gate_columns, stack.directions * gate_columns, i * gate_columns);
      if (gru) task.grad_state_part = any.make({any.rows, hidden});
      if (wants_h0) task.grad_h0 = stack.state(grad_h0, place);
      if (wants_c0) task.grad_c0 = stack.state(grad_c0, place);
      tasks.push_back(task);
    }
    if (layer > lowest_layer && (stack.layers - layer) % wave != 0) continue;
    if (any.rows > 0) run_tasks(tasks, tasks.size() > 1 && wave > 1);
    for (const BackwardTask& task : tasks) {
      const int64_t place = stack.place_of(*task.layer);
      const WeightGradients own = weight_gradients(task, needs[place]);
      Tensor* to = &found[4 * place];
      to[0] = own.w_ih;
      to[1] = own.w_hh;
      to[2] = own.b_ih;
      to[3] = own.b_hh;
    }
    if (layer == 0 ? wants_input : layer > lowest_layer)
      grad = input_gradient(stack.both(layer), grads);
    tasks.clear();
  }
  return {wants_input ? *grad : none(), grad_h0, grad_c0, found};
}

SEQKERN_GPU_OPERATORS(m) {
  m.impl("recurrent_stack_forward", TORCH_BOX(&stack_forward));
  m.impl("recurrent_stack_backward", TORCH_BOX(&stack_backward));
}

}  // namespace
}  // namespace seqkern
