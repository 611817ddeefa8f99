// The LSTM's CUDA operators.
#include <algorithm>
#include <cstdint>
#include <tuple>

#include "recurrent/layer_cuda.h"
#include "recurrent/lstm_kernels.cuh"

namespace seqkern {
namespace {

using SixTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
using SevenTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

SixTensors lstm_forward(const Tensor& input, const OptionalTensor& h0, const OptionalTensor& c0,
                        const Tensor& w_ih, const Tensor& w_hh, const OptionalTensor& b_ih,
                        const OptionalTensor& b_hh, const OptionalTensor& w_hr,
                        const OptionalTensor& packed, const OptionalTensor& batch_sizes,
                        bool reverse, bool save) {
  const OnDeviceOf guard(input);
  const CudaLayer layer({Cell::kLstm, input, h0, w_ih, w_hh, w_hr, batch_sizes, reverse});
  ForwardResult r = forward<LstmForward>(layer, {c0, b_ih, b_hh, packed, save});
  return {r.output, r.h_n, r.c_n, r.gates, r.cells, r.hidden};
}

SevenTensors lstm_backward(const OptionalTensor& grad_output, const OptionalTensor& grad_h_n,
                           const OptionalTensor& grad_c_n, const Tensor& input,
                           const OptionalTensor& h0, const OptionalTensor& c0, const Tensor& w_ih,
                           const Tensor& w_hh, const OptionalTensor& w_hr,
                           const OptionalTensor& batch_sizes, const Tensor& output,
                           const Tensor& gates, const Tensor& cells, const Tensor& hidden,
                           bool reverse, int64_t needs) {
  const OnDeviceOf guard(input);
  const CudaLayer layer({Cell::kLstm, input, h0, w_ih, w_hh, w_hr, batch_sizes, reverse});
  BackwardResult r = backward<LstmBackward>(
      layer, {grad_output, grad_h_n, grad_c_n, c0, output, gates, cells, hidden, needs});
  return {r.grad_input, r.grad_h0, r.grad_c0, r.grad_w_ih, r.grad_w_hh, r.grad_b_ih, r.grad_w_hr};
}

device::Grid one_thread_each(int64_t count) {
  constexpr int kThreads = 256;
  constexpr int64_t kMostBlocks = 1 << 16;  // the kernel loops over the rest
  const int64_t blocks = std::min((count + kThreads - 1) / kThreads, kMostBlocks);
  return {static_cast<int>(blocks), kThreads};
}

void check_arguments(const Tensor& gates, const Tensor& c) {
  STD_TORCH_CHECK(gates.dim() == 2 && c.dim() == 2,
                  "lstm_pointwise: gates and c should have 2 dimensions, but have ", gates.dim(),
                  " and ", c.dim());
  STD_TORCH_CHECK(
      gates.size(0) == c.size(0) && gates.size(1) == 4 * c.size(1),
      "lstm_pointwise: gates should have the shape (batch, 4 * hidden) for c of the shape "
      "(batch, hidden), but they have the shapes (",
      gates.size(0), ", ", gates.size(1), ") and (", c.size(0), ", ", c.size(1), ")");
  STD_TORCH_CHECK(gates.scalar_type() == c.scalar_type(),
                  "lstm_pointwise: gates and c should have the same dtype");
  STD_TORCH_CHECK(gates.get_device_index() == c.get_device_index() && c.is_cuda(),
                  "lstm_pointwise: gates and c should be on the same device");
}

template <class S>
void launch(const Tensor& gates, const Tensor& c, Tensor& h, Tensor& c_new) {
  if (c.numel() == 0) return;
  device::launch(lstm_pointwise_kernel<S>, one_thread_each(c.numel()), stream_of(c),
                 static_cast<const S*>(gates.const_data_ptr()),
                 static_cast<const S*>(c.const_data_ptr()), static_cast<S*>(h.mutable_data_ptr()),
                 static_cast<S*>(c_new.mutable_data_ptr()), c.size(0), c.size(1));
}

std::tuple<Tensor, Tensor> lstm_pointwise(const Tensor& gates_, const Tensor& c_) {
  check_arguments(gates_, c_);
  const OnDeviceOf guard(c_);
  const Tensor gates = torch::stable::contiguous(gates_);
  const Tensor c = torch::stable::contiguous(c_);
  Tensor h = torch::stable::empty_like(c);
  Tensor c_new = torch::stable::empty_like(c);
  switch (c.scalar_type()) {
    case ScalarType::Float:
      launch<float>(gates, c, h, c_new);
      break;
    case ScalarType::Double:
      launch<double>(gates, c, h, c_new);
      break;
    case ScalarType::BFloat16:
      launch<device::bfloat16>(gates, c, h, c_new);
      break;
    default:
      STD_TORCH_CHECK(false, "lstm_pointwise: dtype should be float32, float64 or bfloat16");
  }
  return {h, c_new};
}

SEQKERN_GPU_OPERATORS(m) {
  m.impl("lstm_forward", TORCH_BOX(&lstm_forward));
  m.impl("lstm_backward", TORCH_BOX(&lstm_backward));
  m.impl("lstm_pointwise", TORCH_BOX(&lstm_pointwise));
}

}  // namespace
}  // namespace seqkern
