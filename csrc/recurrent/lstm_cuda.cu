// The LSTM's CUDA operators: argument checks, launch, registration.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <tuple>

#include "recurrent/lstm_kernels.cuh"

namespace seqkern {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

cudaStream_t current_stream(int32_t device_index) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_index, &stream));
  return static_cast<cudaStream_t>(stream);
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
  device::launch(lstm_pointwise_kernel<S>, one_thread_each(c.numel()),
                 current_stream(c.get_device_index()),
                 static_cast<const S*>(gates.const_data_ptr()),
                 static_cast<const S*>(c.const_data_ptr()), static_cast<S*>(h.mutable_data_ptr()),
                 static_cast<S*>(c_new.mutable_data_ptr()), c.size(0), c.size(1));
}

std::tuple<Tensor, Tensor> lstm_pointwise(const Tensor& gates_, const Tensor& c_) {
  check_arguments(gates_, c_);
  const torch::stable::accelerator::DeviceGuard guard(c_.get_device_index());
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

STABLE_TORCH_LIBRARY_IMPL(seqkern, CUDA, m) {
  m.impl("lstm_pointwise", TORCH_BOX(&lstm_pointwise));
}

}  // namespace
}  // namespace seqkern
