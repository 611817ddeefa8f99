#include "recurrent/cpu/backward_cpu.h"

#include <torch/headeronly/util/BFloat16.h>

#include <algorithm>
#include <cstring>

#include "common/ceil_div.h"
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

// With fewer rows at a time, passing over the weights' gradients once more would show; with more,
// grad_gates would leave the caches before the products read it.
constexpr int64_t kChunkRows = 512;

// bfloat16 sums must not be rounded from chunk to chunk: all steps are one chunk.
std::vector<int64_t> chunk_ends(const Layer& layer) {
  return layer.chunk_ends(layer.dtype == ScalarType::BFloat16 ? layer.rows : kChunkRows);
}

// The gradients of the input and of the weights, summed up chunk by chunk of steps, from the last
// to the first. grad_gates has room for a chunk and the step after it, whose gradients the loop
// over time goes on from.
class Gradients {
 public:
  Gradients(const Layer& layer, const Tensor& output, int64_t needs,
            const std::vector<int64_t>& ends, BackwardResult* result)
      : layer_(layer),
        output_(output),
        needs_(needs),
        result_(*result),
        width_((layer.cell == Cell::kGru ? 4 : layer.gates) * layer.sizes.hidden),
        stride_(padded_row(width_, layer.input)),
        grad_gates_(empty({most_rows(ends), stride_}, layer.dtype)) {
    if (needs & kNeedsInput) {
      result_.grad_input = empty(layer.shape_with(layer.input_size), layer.dtype);
      for (const Gates& g : input_gates(layer))
        input_weights_.emplace_back(matrix(layer.w_ih, g.rows, layer.input_size, layer.input_size,
                                           1, g.row * layer.input_size));
    }
    if (needs & kNeedsInputWeights) result_.grad_w_ih = empty(shape_of(layer.w_ih), layer.dtype);
    if (needs & kNeedsStateWeights) result_.grad_w_hh = empty(shape_of(layer.w_hh), layer.dtype);
  }

  int64_t width() const { return width_; }
  int64_t stride() const { return stride_; }
  int64_t first_row() const { return first_row_; }
  const Tensor& gates() const { return grad_gates_; }

  // Makes room for steps [begin, end); what was computed for step `end` stays.
  void begin_chunk(int64_t begin, int64_t end) {
    const RowRange rows = layer_.rows_of(begin, end_of_room(end));
    if (end < end_of_room(end)) {
      const int64_t row_bytes = stride_ * static_cast<int64_t>(grad_gates_.element_size());
      const RowRange later = layer_.rows_of(end, end + 1);
      char* to = static_cast<char*>(grad_gates_.mutable_data_ptr());
      std::memmove(to + (later.first - rows.first) * row_bytes,
                   to + (later.first - first_row_) * row_bytes, later.count * row_bytes);
    }
    first_row_ = rows.first;
  }

  // Adds what grad_gates holds for steps [begin, end), those of begin_chunk.
  void add_chunk(int64_t begin, int64_t end) {
    const RowRange rows = layer_.rows_of(begin, end);
    const int64_t features = layer_.input_size, state = layer_.sizes.state;
    if (needs_ & kNeedsInput) {
      const Tensor out =
          matrix(result_.grad_input, rows.count, features, features, 1, rows.first * features);
      size_t i = 0;
      for (const Gates& g : input_gates(layer_)) {
        RightFactor& weights = input_weights_[i];
        if (i++ == 0)
          weights.multiply(out, columns(g, rows));
        else
          weights.multiply_add(out, columns(g, rows));
      }
    }
    if (needs_ & kNeedsInputWeights)
      add_products(result_.grad_w_ih, input_gates(layer_), rows,
                   matrix(layer_.input, rows.count, features, features, 1, rows.first * features));
    if (needs_ & kNeedsStateWeights) {
      // Where the states before the steps do not stand in the output, row after row, they are
      // gathered.
      const bool in_place = layer_.dense && begin > 0;
      const int64_t before = in_place ? layer_.rows_of(begin - 1, end - 1).first : 0;
      add_products(result_.grad_w_hh, state_gates(layer_), rows,
                   matrix(in_place ? output_ : states_before(begin, end), rows.count, state, state,
                          1, before * state));
    }
    first_chunk_ = false;
  }

  Tensor projection(const Tensor& grad_projected, const Tensor& hidden) const {
    const Tensor grad = empty(shape_of(*layer_.w_hr), layer_.dtype);
    matmul_out(grad, matrix(grad_projected, layer_.sizes.state, layer_.rows, 1, layer_.sizes.state),
               matrix(hidden, layer_.rows, layer_.sizes.hidden, layer_.sizes.hidden, 1));
    return grad;
  }

 private:
  int64_t end_of_room(int64_t end) const {
    return std::min(end + 1, static_cast<int64_t>(layer_.active.size()));
  }
  int64_t most_rows(const std::vector<int64_t>& ends) const {
    int64_t most = 0;
    for (size_t i = 0; i < ends.size(); ++i)
      most = std::max(most, layer_.rows_of(i ? ends[i - 1] : 0, end_of_room(ends[i])).count);
    return most;
  }
  Tensor columns(const Gates& g, const RowRange& rows) const {
    return matrix(grad_gates_, rows.count, g.rows, stride_, 1,
                  (rows.first - first_row_) * stride_ + g.column);
  }

  // Adds grad_gates^T * right to the gradient of a weight matrix.
  void add_products(const Tensor& grad, const std::vector<Gates>& gates, const RowRange& rows,
                    const Tensor& right) const {
    const int64_t width = grad.size(1);
    for (const Gates& g : gates) {
      const Tensor left = matrix(grad_gates_, g.rows, rows.count, 1, stride_,
                                 (rows.first - first_row_) * stride_ + g.column);
      (first_chunk_ ? matmul_out : matmul_add)(matrix(grad, g.rows, width, width, 1, g.row * width),
                                               left, right);
    }
  }

  // For every row of steps [begin, end), the state before its step.
  Tensor states_before(int64_t begin, int64_t end) const {
    const int64_t row_bytes = layer_.sizes.state * static_cast<int64_t>(output_.element_size());
    const RowRange rows = layer_.rows_of(begin, end);
    const Tensor before = empty({rows.count, layer_.sizes.state}, layer_.dtype);
    if (rows.count == 0) return before;
    const char* output = static_cast<const char*>(output_.const_data_ptr());
    const char* h0 = static_cast<const char*>(layer_.h0->const_data_ptr());
    char* to = static_cast<char*>(before.mutable_data_ptr());
    for (int64_t s = begin; s < end; ++s) {
      const int64_t active = layer_.active[s],
                    continuing = s ? std::min(layer_.active[s - 1], active) : 0;
      char* row = to + (layer_.offset[s] - rows.first) * row_bytes;
      if (continuing)
        std::memcpy(row, output + layer_.offset[s - 1] * row_bytes, continuing * row_bytes);
      std::memcpy(row + continuing * row_bytes, h0 + continuing * row_bytes,
                  (active - continuing) * row_bytes);
    }
    return before;
  }

  const Layer& layer_;
  const Tensor& output_;
  const int64_t needs_;
  BackwardResult& result_;
  const int64_t width_, stride_;
  const Tensor grad_gates_;
  std::vector<RightFactor> input_weights_;
  int64_t first_row_ = 0;
  bool first_chunk_ = true;
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
  const std::vector<int64_t> ends = chunk_ends(layer);
  Gradients gradients(layer, output, needs, ends, &result);
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
  args.split = layer.split(ceil_div(state, kernels.backward_units));
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

  WorkingMemory scratch;
  if (!unpacked) {
    args.packed_hh =
        scratch.room(product.packed_bytes(layer.gates * hidden, state, kernels.backward_units, 1));
    if (layer.w_hr)
      args.packed_hr = scratch.room(product.packed_bytes(state, hidden, kernels.backward_units, 1));
  }
  for (int64_t depth : {layer.gates * hidden, layer.w_hr ? state : 0})
    args.operand_bytes = std::max(args.operand_bytes, product.operand_bytes(layer.batch, depth));
  args.operand = scratch.room(args.operand_bytes * args.split.slots);

  for (size_t chunk = ends.size(); chunk-- > 0;) {
    args.first_step = chunk ? ends[chunk - 1] : 0;
    args.end_step = ends[chunk];
    gradients.begin_chunk(args.first_step, args.end_step);
    args.first_grad_row = gradients.first_row();
    if (layer.rows > 0) run_slots(kernels.backward, args);
    args.prepacked = true;
    gradients.add_chunk(args.first_step, args.end_step);
  }

  if (needs & kNeedsC0 && lstm && !carry_is_result) {
    const float* from = static_cast<const float*>(carry.const_data_ptr());
    BFloat16* to = static_cast<BFloat16*>(result.grad_c0.mutable_data_ptr());
    std::transform(from, from + carry.numel(), to,
                   [](float x) { return static_cast<BFloat16>(x); });
  }
  scratch.release();
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
