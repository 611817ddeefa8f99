#include "recurrent/cpu/forward_cpu.h"

#include <torch/headeronly/util/BFloat16.h>

#include <algorithm>
#include <cstring>

#include "common/ceil_div.h"
#include "common/matmul_cpu.h"

namespace seqkern {

namespace {

using torch::headeronly::BFloat16;

// The biases in the compute type and in the order that ForwardArgs wants.
template <class S, class C>
std::vector<C> biases(const Layer& layer, const Tensor& b_ih, const Tensor& b_hh) {
  const S* input = static_cast<const S*>(b_ih.const_data_ptr());
  const S* state = static_cast<const S*>(b_hh.const_data_ptr());
  const int64_t hidden = layer.sizes.hidden,
                summed = (layer.cell == Cell::kGru ? 2 : layer.gates) * hidden;
  std::vector<C> bias((layer.cell == Cell::kGru ? 4 : layer.gates) * hidden);
  for (int64_t i = 0; i < summed; ++i)
    bias[i] = static_cast<C>(input[i]) + static_cast<C>(state[i]);
  if (layer.cell == Cell::kGru)
    for (int64_t i = 0; i < hidden; ++i) {
      bias[summed + i] = static_cast<C>(input[summed + i]);
      bias[summed + hidden + i] = static_cast<C>(state[summed + i]);
    }
  return bias;
}

template <class From, class To>
void convert(const Tensor& from, const Tensor& to) {
  const From* source = static_cast<const From*>(from.const_data_ptr());
  To* target = static_cast<To*>(to.mutable_data_ptr());
  for (int64_t i = 0, n = from.numel(); i < n; ++i) target[i] = static_cast<To>(source[i]);
}

// The state of each row after its last step.
void copy_last_rows(const Layer& layer, const Tensor& output, const Tensor& h_n) {
  const int64_t row_bytes = layer.sizes.state * static_cast<int64_t>(output.element_size());
  const char* from = static_cast<const char*>(output.const_data_ptr());
  char* to = static_cast<char*>(h_n.mutable_data_ptr());
  const size_t count = layer.active.size();
  for (size_t s = 0; s < count; ++s) {
    const int64_t staying = s + 1 < count ? layer.active[s + 1] : 0,
                  ending = layer.active[s] - staying;
    if (ending > 0)
      std::memcpy(to + staying * row_bytes, from + (layer.offset[s] + staying) * row_bytes,
                  ending * row_bytes);
  }
}

// The input is projected a chunk of steps at a time, so that the loop over time finds the
// projection in cache and inference needs no room for all of it. Returns the steps that the chunks
// end before.
std::vector<int64_t> chunk_ends(const Layer& layer, int64_t gates_stride) {
  constexpr int64_t kChunkBytes = int64_t(1) << 20,
                    kFewestRows = 512;  // with fewer, reading w_ih again would show
  const int64_t row_bytes = gates_stride * static_cast<int64_t>(layer.input.element_size());
  return layer.chunk_ends(std::max(kFewestRows, kChunkBytes / row_bytes));
}

int64_t packed_bytes(const Layer& layer, const ProductKernels& product) {
  const CellKernels& kernels = layer.cell_kernels(product);
  return product.packed_bytes(layer.sizes.state, layer.sizes.hidden, kernels.forward_units,
                              layer.gates);
}

void check_packed(const Layer& layer, const Tensor& packed, int64_t bytes) {
  check(packed.scalar_type() == ScalarType::Byte && packed.is_contiguous() &&
            packed.numel() == bytes + kPackedTagBytes,
        "packed should be what recurrent_pack made of this w_hh: ", bytes + kPackedTagBytes,
        " contiguous bytes, but it has the shape ", shape_text(packed));
  const PackedTag expected(layer.storage(), layer.gates, layer.sizes);
  const char* tag = static_cast<const char*>(packed.const_data_ptr()) + bytes;
  check(std::memcmp(tag, &expected, sizeof(expected)) == 0,
        "packed was made for another ISA level, dtype or size than this call's");
}

}  // namespace

ForwardResult forward(const Layer& layer, const ForwardExtras& extras) {
  const int64_t hidden = layer.sizes.hidden, state = layer.sizes.state;
  const bool lstm = layer.cell == Cell::kLstm, gru = layer.cell == Cell::kGru, save = extras.save;
  const ScalarType dtype = layer.dtype;
  const bool wide = dtype == layer.compute_dtype;
  check(extras.b_ih.has_value() == extras.b_hh.has_value(),
        "b_ih and b_hh should both be given or both be missing");

  ForwardResult result{empty(layer.shape_with(state), dtype),
                       empty(layer.state_shape(state), dtype),
                       lstm ? empty(layer.state_shape(hidden), dtype) : empty({0}, dtype),
                       empty({0}, dtype),
                       empty({0}, layer.compute_dtype),
                       empty({0}, dtype)};
  const int64_t saved_gates = gru ? 4 : layer.gates;
  const bool keep_gates = save && (lstm || gru);
  const int64_t gates_stride =
      keep_gates ? saved_gates * hidden : padded_row(layer.gates * hidden, layer.input);
  const std::vector<int64_t> ends = chunk_ends(layer, gates_stride);
  int64_t gate_rows = layer.rows;
  if (!keep_gates) {
    gate_rows = 0;
    for (size_t i = 0; i < ends.size(); ++i)
      gate_rows = std::max(gate_rows, layer.rows_of(i ? ends[i - 1] : 0, ends[i]).count);
  }
  const Tensor gates = keep_gates ? empty(layer.shape_with(gates_stride), dtype)
                                  : empty({gate_rows, gates_stride}, dtype);
  if (keep_gates) result.gates = gates;
  if (save && lstm) result.cells = empty(layer.shape_with(hidden), layer.compute_dtype);

  Tensor hidden_rows = result.hidden;
  if (layer.w_hr)
    hidden_rows = empty(save ? layer.shape_with(hidden) : layer.state_shape(hidden), dtype);
  if (layer.w_hr && save) result.hidden = hidden_rows;

  // c_n itself holds the running cell state where it has the compute type.
  Tensor cell_state = result.c_n;
  if (lstm) {
    const Tensor c0 = layer.checked_or_zeros("c0", extras.c0, layer.state_shape(hidden));
    if (!wide) cell_state = empty(layer.state_shape(hidden), layer.compute_dtype);
    if (!wide)
      convert<BFloat16, float>(c0, cell_state);
    else if (c0.numel())
      std::memcpy(cell_state.mutable_data_ptr(), c0.const_data_ptr(),
                  c0.numel() * c0.element_size());
  }

  std::vector<float> bias32;
  std::vector<double> bias64;
  const void* bias = nullptr;
  if (extras.b_ih) {
    const Shape shape = {layer.gates * hidden};
    const Tensor b_ih = *layer.checked("b_ih", extras.b_ih, shape),
                 b_hh = *layer.checked("b_hh", extras.b_hh, shape);
    if (dtype == ScalarType::Double)
      bias = (bias64 = biases<double, double>(layer, b_ih, b_hh)).data();
    else if (dtype == ScalarType::Float)
      bias = (bias32 = biases<float, float>(layer, b_ih, b_hh)).data();
    else
      bias = (bias32 = biases<BFloat16, float>(layer, b_ih, b_hh)).data();
  }

  const bool unpacked = layer.few_rows() && !extras.packed;
  const ProductKernels& product = unpacked ? layer.kernels().unpacked : layer.kernels().packed;
  const CellKernels& kernels = layer.cell_kernels(product);

  ForwardArgs args{};
  args.steps = layer.steps();
  args.sizes = layer.sizes;
  args.split = layer.split(ceil_div(hidden, kernels.forward_units));
  args.w_hh = layer.w_hh.const_data_ptr();
  args.w_hr = data(layer.w_hr);
  args.input_size = layer.input_size;
  args.w_ih = layer.w_ih.const_data_ptr();
  args.bias = bias;
  args.h0 = layer.h0->const_data_ptr();
  args.gates = gates.mutable_data_ptr();
  args.gates_stride = gates_stride;
  args.cell_state = cell_state.mutable_data_ptr();
  args.cells = result.cells.mutable_data_ptr();
  args.hidden = layer.w_hr ? hidden_rows.mutable_data_ptr() : nullptr;
  args.output = result.output.mutable_data_ptr();
  args.save = save;

  WorkingMemory scratch;
  if (unpacked) {
    args.input = layer.input.const_data_ptr();
  } else {
    const int64_t bytes = packed_bytes(layer, product);
    if (extras.packed) {
      check_packed(layer, *extras.packed, bytes);
      args.packed_hh = extras.packed->mutable_data_ptr();
      args.prepacked_hh = true;
    } else {
      args.packed_hh = scratch.room(bytes);
    }
    if (layer.w_hr)
      args.packed_hr = scratch.room(product.packed_bytes(hidden, state, kernels.backward_units, 1));
  }
  for (int64_t depth : {state, layer.w_hr ? hidden : 0, unpacked ? layer.input_size : 0})
    args.operand_bytes = std::max(args.operand_bytes, product.operand_bytes(layer.batch, depth));
  args.operand = scratch.room(args.operand_bytes * args.split.slots);

  RightFactor input_weights(
      matrix(layer.w_ih, layer.input_size, layer.gates * hidden, 1, layer.input_size));
  for (size_t chunk = 0; layer.rows > 0 && chunk < ends.size(); ++chunk) {
    args.first_step = chunk ? ends[chunk - 1] : 0;
    args.end_step = ends[chunk];
    const RowRange rows = layer.rows_of(args.first_step, args.end_step);
    args.first_gate_row = keep_gates ? 0 : rows.first;
    if (!unpacked)
      input_weights.multiply(matrix(gates, rows.count, layer.gates * hidden, gates_stride, 1,
                                    keep_gates ? rows.first * gates_stride : 0),
                             matrix(layer.input, rows.count, layer.input_size, layer.input_size, 1,
                                    rows.first * layer.input_size));
    run_slots(kernels.forward, args);
    args.prepacked_hh = args.prepacked_hr = true;
  }
  if (layer.rows > 0) copy_last_rows(layer, result.output, result.h_n);
  if (lstm && !wide) convert<float, BFloat16>(cell_state, result.c_n);
  return result;
}

}  // namespace seqkern
