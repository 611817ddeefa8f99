#include "recurrent/backward_cpu.h"

#include <torch/headeronly/util/BFloat16.h>

#include <algorithm>
#include <cstring>

#include "common/matmul_cpu.h"

namespace seqkern {

namespace {

using torch::headeronly::BFloat16;

// Columns of grad_gates (see BackwardArgs) that belong to rows [row, row + rows) of a weight
// matrix. The GRU keeps the gradient of n's input part apart from that of its state part.
struct Gates {
  int64_t column, row, rows;
};

std::vector<Gates> input_gates(const Layer& layer) {
  const int64_t hidden = layer.sizes.hidden;
  if (layer.cell == Cell::kGru) return {{hidden, 0, 2 * hidden}, {0, 2 * hidden, hidden}};
  return {{0, 0, layer.gates * hidden}};
}

std::vector<Gates> state_gates(const Layer& layer) {
  const int64_t hidden = layer.sizes.hidden;
  return {{layer.cell == Cell::kGru ? hidden : 0, 0, layer.gates * hidden}};
}

class Gradients {
 public:
  Gradients(const Layer& layer, const Tensor& output)
      : layer_(layer),
        output_(output),
        width_((layer.cell == Cell::kGru ? 4 : layer.gates) * layer.sizes.hidden),
        stride_(padded_row(width_, layer.input)),
        grad_gates_(empty({layer.rows, stride_}, layer.dtype)) {}

  int64_t width() const { return width_; }
  int64_t stride() const { return stride_; }
  const Tensor& gates() const { return grad_gates_; }

  Tensor input() const {
    const Tensor grad = empty(layer_.shape_with(layer_.input_size), layer_.dtype);
    const Tensor out = matrix(grad, layer_.rows, layer_.input_size, layer_.input_size, 1);
    bool first = true;
    for (const Gates& g : input_gates(layer_)) {
      const Tensor weights = matrix(layer_.w_ih, g.rows, layer_.input_size, layer_.input_size, 1,
                                    g.row * layer_.input_size);
      (first ? matmul_out : matmul_add)(out, columns(g, 0, layer_.rows), weights);
      first = false;
    }
    return grad;
  }

  Tensor input_weights() const {
    const Tensor grad = empty(shape_of(layer_.w_ih), layer_.dtype);
    const Tensor input = matrix(layer_.input, layer_.rows, layer_.input_size, layer_.input_size, 1);
    for (const Gates& g : input_gates(layer_))
      matmul_out(rows_of(grad, g), transposed_columns(g, 0, layer_.rows), input);
    return grad;
  }

  Tensor state_weights() const {
    const Tensor grad = empty(shape_of(layer_.w_hh), layer_.dtype);
    const int64_t state = layer_.sizes.state;
    for (const Gates& g : state_gates(layer_)) {
      const Tensor out = rows_of(grad, g);
      if (layer_.dense) {
        // The states before steps 1, 2, ... stand in the output, shifted by one step; the one
        // before step 0 is h0.
        const int64_t batch = layer_.batch, later = layer_.rows - batch;
        matmul_out(out, transposed_columns(g, layer_.offset.front(), batch),
                   matrix(*layer_.h0, batch, state, state, 1));
        if (later > 0)
          matmul_add(out, transposed_columns(g, layer_.reverse ? 0 : batch, later),
                     matrix(output_, later, state, state, 1, layer_.reverse ? batch * state : 0));
      } else {
        matmul_out(out, transposed_columns(g, 0, layer_.rows),
                   matrix(states_before(), layer_.rows, state, state, 1));
      }
    }
    return grad;
  }

  Tensor projection(const Tensor& grad_projected, const Tensor& hidden) const {
    const Tensor grad = empty(shape_of(*layer_.w_hr), layer_.dtype);
    matmul_out(grad, matrix(grad_projected, layer_.sizes.state, layer_.rows, 1, layer_.sizes.state),
               matrix(hidden, layer_.rows, layer_.sizes.hidden, layer_.sizes.hidden, 1));
    return grad;
  }

 private:
  Tensor columns(const Gates& g, int64_t first_row, int64_t rows) const {
    return matrix(grad_gates_, rows, g.rows, stride_, 1, first_row * stride_ + g.column);
  }
  Tensor transposed_columns(const Gates& g, int64_t first_row, int64_t rows) const {
    return matrix(grad_gates_, g.rows, rows, 1, stride_, first_row * stride_ + g.column);
  }
  static Tensor rows_of(const Tensor& weights, const Gates& g) {
    const int64_t columns = weights.size(1);
    return matrix(weights, g.rows, columns, columns, 1, g.row * columns);
  }

  // Ragged batches: for every row of the input, the state before its step.
  Tensor states_before() const {
    const int64_t row_bytes = layer_.sizes.state * static_cast<int64_t>(output_.element_size());
    const Tensor before = empty({layer_.rows, layer_.sizes.state}, layer_.dtype);
    const char* output = static_cast<const char*>(output_.const_data_ptr());
    const char* h0 = static_cast<const char*>(layer_.h0->const_data_ptr());
    char* to = static_cast<char*>(before.mutable_data_ptr());
    for (size_t s = 0; s < layer_.active.size(); ++s) {
      const int64_t active = layer_.active[s],
                    continuing = s ? std::min(layer_.active[s - 1], active) : 0;
      char* rows = to + layer_.offset[s] * row_bytes;
      if (continuing)
        std::memcpy(rows, output + layer_.offset[s - 1] * row_bytes, continuing * row_bytes);
      std::memcpy(rows + continuing * row_bytes, h0 + continuing * row_bytes,
                  (active - continuing) * row_bytes);
    }
    return before;
  }

  const Layer& layer_;
  const Tensor& output_;
  const int64_t width_, stride_;
  const Tensor grad_gates_;
};

// Adds the slots' sums of one bias and rounds them to the storage type. `order` maps the bias'
// gates to those of grad_gates.
template <class S>
Tensor bias_gradient(const Layer& layer, const std::vector<double>& sums, int64_t width,
                     const std::vector<int>& order) {
  const int64_t hidden = layer.sizes.hidden;
  const Tensor grad = empty({layer.gates * hidden}, layer.dtype);
  S* to = static_cast<S*>(grad.mutable_data_ptr());
  for (size_t gate = 0; gate < order.size(); ++gate)
    for (int64_t unit = 0; unit < hidden; ++unit) {
      double total = 0;
      for (size_t i = order[gate] * hidden + unit; i < sums.size(); i += width) total += sums[i];
      to[gate * hidden + unit] = static_cast<S>(total);
    }
  return grad;
}

Tensor bias_gradient(const Layer& layer, const std::vector<double>& sums, int64_t width,
                     const std::vector<int>& order) {
  if (layer.dtype == ScalarType::Double) return bias_gradient<double>(layer, sums, width, order);
  if (layer.dtype == ScalarType::Float) return bias_gradient<float>(layer, sums, width, order);
  return bias_gradient<BFloat16>(layer, sums, width, order);
}

}  // namespace

BackwardResult backward(const Layer& layer, const BackwardExtras& extras) {
  const int64_t hidden = layer.sizes.hidden, state = layer.sizes.state, needs = extras.needs;
  const bool lstm = layer.cell == Cell::kLstm, gru = layer.cell == Cell::kGru;
  const ScalarType dtype = layer.dtype;
  const auto none = [&] {
    return empty({0}, dtype);
  };  // operators must not return one tensor twice
  BackwardResult result{none(), none(), none(), none(), none(), none(), none(), none()};

  const Tensor output = *layer.checked("output", extras.output, layer.shape_with(state));
  const OptionalTensor grad_output =
      layer.checked("grad_output", extras.grad_output, layer.shape_with(state));
  const OptionalTensor grad_h_n =
      layer.checked("grad_h_n", extras.grad_h_n, layer.state_shape(state));
  const OptionalTensor grad_c_n =
      layer.checked("grad_c_n", extras.grad_c_n, layer.state_shape(hidden));
  OptionalTensor c0, gates;
  if (lstm) c0 = layer.checked_or_zeros("c0", extras.c0, layer.state_shape(hidden));
  if (lstm || gru) gates = layer.checked("gates", extras.gates, layer.shape_with(4 * hidden));
  OptionalTensor cells, hidden_rows;
  if (lstm)
    cells = layer.checked("cells", extras.cells, layer.shape_with(hidden), layer.compute_dtype);
  if (layer.w_hr) hidden_rows = layer.checked("hidden", extras.hidden, layer.shape_with(hidden));

  const bool unpacked = layer.few_rows();
  const ProductKernels& product = unpacked ? layer.kernels().unpacked : layer.kernels().packed;
  const CellKernels& kernels = layer.cell_kernels(product);
  const Gradients gradients(layer, output);
  Tensor grad_projected = none();
  if (layer.w_hr) grad_projected = empty({layer.rows, state}, dtype);
  if (needs & kNeedsH0) result.grad_h0 = empty(layer.state_shape(state), dtype);
  if (needs & kNeedsC0 && lstm) result.grad_c0 = empty(layer.state_shape(hidden), dtype);
  // The LSTM's carry ends as the gradient of c0.
  const bool carry_is_result = needs & kNeedsC0 && lstm && dtype == layer.compute_dtype;
  Tensor carry = result.grad_c0;
  if (!carry_is_result && (lstm || gru))
    carry = empty(layer.state_shape(hidden), layer.compute_dtype);

  BackwardArgs args{};
  args.steps = layer.steps();
  args.sizes = layer.sizes;
  args.split = layer.split((state + kernels.backward_units - 1) / kernels.backward_units);
  args.w_hh = layer.w_hh.const_data_ptr();
  args.w_hr = data(layer.w_hr);
  args.h0 = layer.h0->const_data_ptr();
  args.c0 = data(c0);
  args.output = output.const_data_ptr();
  args.gates = data(gates);
  args.cells = data(cells);
  args.grad_output = data(grad_output);
  args.grad_h_n = data(grad_h_n);
  args.grad_c_n = data(grad_c_n);
  args.grad_gates = gradients.gates().mutable_data_ptr();
  args.grad_gates_stride = gradients.stride();
  args.grad_projected = layer.w_hr ? grad_projected.mutable_data_ptr() : nullptr;
  args.carry = carry.mutable_data_ptr();
  args.grad_h0 = needs & kNeedsH0 ? result.grad_h0.mutable_data_ptr() : nullptr;
  std::vector<double> bias_sums;
  if (needs & kNeedsBiases) {
    bias_sums.assign((args.split.over_rows ? args.split.slots : 1) * gradients.width(), 0.0);
    args.grad_bias = bias_sums.data();
  }

  Scratch scratch;
  if (!unpacked) {
    args.packed_hh =
        scratch.room(product.packed_bytes(layer.gates * hidden, state, kernels.backward_units, 1));
    if (layer.w_hr)
      args.packed_hr = scratch.room(product.packed_bytes(state, hidden, kernels.backward_units, 1));
  }
  for (int64_t depth : {layer.gates * hidden, layer.w_hr ? state : 0})
    args.operand_bytes = std::max(args.operand_bytes, product.operand_bytes(layer.batch, depth));
  args.operand = scratch.room(args.operand_bytes * args.split.slots);

  if (layer.rows > 0) run_slots(kernels.backward, args);

  if (needs & kNeedsC0 && lstm && !carry_is_result) {
    const float* from = static_cast<const float*>(carry.const_data_ptr());
    BFloat16* to = static_cast<BFloat16*>(result.grad_c0.mutable_data_ptr());
    std::transform(from, from + carry.numel(), to,
                   [](float x) { return static_cast<BFloat16>(x); });
  }
  scratch.release();
  if (needs & kNeedsInput) result.grad_input = gradients.input();
  if (needs & kNeedsInputWeights) result.grad_w_ih = gradients.input_weights();
  if (needs & kNeedsStateWeights) result.grad_w_hh = gradients.state_weights();
  if (needs & kNeedsProjection && layer.w_hr)
    result.grad_w_hr = gradients.projection(grad_projected, *hidden_rows);
  if (needs & kNeedsBiases) {
    // grad_gates holds the GRU's gates as n (input), r, z, n (state).
    const std::vector<int> input_order = lstm  ? std::vector<int>{0, 1, 2, 3}
                                         : gru ? std::vector<int>{1, 2, 0}
                                               : std::vector<int>{0};
    result.grad_b_ih = bias_gradient(layer, bias_sums, gradients.width(), input_order);
    result.grad_b_hh =
        gru ? bias_gradient(layer, bias_sums, gradients.width(), {1, 2, 3}) : result.grad_b_ih;
  }
  return result;
}

}  // namespace seqkern
