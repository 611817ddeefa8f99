// A recurrent layer on a GPU, host side: what its files ask of torch and of the GPU, and the
// checked arguments of one layer in one direction. launches.h spreads and launches the loop
// over time, tasks.h has the library products around it.
//
// The code asks for nothing of CUDA by itself: tests compile it for the emulator and CPU tensors.
#pragma once

#ifdef __CUDACC__
#include <torch/csrc/stable/accelerator.h>
#endif
#include <torch/csrc/stable/library.h>

#include <array>
#include <memory>

#include "recurrent/cuda/loop.cuh"
#include "recurrent/cuda/plan.h"
#include "recurrent/layer_arguments.h"

namespace seqkern {

// ---- what differs between a GPU and the emulator ----

// The current stream of a tensor's device.
device::Stream stream_of(const Tensor& t);
// How a loop is spread over a tensor's device.
LoopPlan plan_of(const LoopShape& shape, const Tensor& t);
// How many layers of a stack are to run as a wave there; see plan_wave.
int wave_of(const LoopShape& alone, const LoopShape& chained, int64_t layers,
            double projection_flops, const Tensor& t);
// Whether a CUDA graph is being captured, into which no copy from this process' memory may go.
bool capturing(const Tensor& t);

#ifdef __CUDACC__
// Makes a tensor's device the current one.
class OnDeviceOf {
 public:
  explicit OnDeviceOf(const Tensor& t) : guard_(t.get_device_index()) {}

 private:
  torch::stable::accelerator::DeviceGuard guard_;
};
#define SEQKERN_GPU_OPERATORS(m) STABLE_TORCH_LIBRARY_IMPL(seqkern, CUDA, m)
#else
struct OnDeviceOf {
  explicit OnDeviceOf(const Tensor&) {}
};
#define SEQKERN_GPU_OPERATORS(m) STABLE_TORCH_LIBRARY_IMPL(seqkern_emulated, CPU, m)
#endif

// Tensors as kernels see them. The emulator lets kernels touch nothing else; a GPU needs no
// telling.
class Operands {
 public:
  Operands() = default;
  Operands(const Operands&) = delete;
  Operands& operator=(const Operands&) = delete;

  // Null for tensors that are not there or have no elements.
  template <class T>
  const T* in(const char* name, const OptionalTensor& t) {
    if (!t || t->numel() == 0) return nullptr;
    const void* data = t->const_data_ptr();
    show(name, data, *t);
    return static_cast<const T*>(data);
  }
  template <class T>
  T* out(const char* name, const OptionalTensor& t) {
    if (!t || t->numel() == 0) return nullptr;
    void* data = t->mutable_data_ptr();
    show(name, data, *t);
    return static_cast<T*>(data);
  }

#ifdef __CUDACC__
 private:
  template <class T>
  void show(const char*, T*, const Tensor&) {}
#else
  ~Operands() {
    while (!buffers_.empty()) buffers_.pop_back();
  }

 private:
  template <class T>
  void show(const char* name, T* data, const Tensor& t) {
    int64_t elements = 1;  // from the first to the last; a view has others between its own
    for (int64_t i = 0; i < t.dim(); ++i) elements += (t.size(i) - 1) * t.stride(i);
    const size_t bytes = static_cast<size_t>(elements) * t.element_size();
    buffers_.push_back(std::make_unique<emulator::Buffer>(name, data, bytes));
  }
  std::vector<std::unique_ptr<emulator::Buffer>> buffers_;
#endif
};

// ---- tensors ----

inline Tensor new_tensor(const Tensor& like, const Shape& shape, ScalarType dtype) {
  return torch::stable::new_empty(like, shape, dtype);
}

// out = a * b by torch's library.
inline void product_out(const Tensor& out, const Tensor& a, const Tensor& b) {
  std::array<StableIValue, 3> stack{torch::stable::detail::from(a), torch::stable::detail::from(b),
                                    torch::stable::detail::from(out)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", "out", stack.data(), TORCH_ABI_VERSION));
  (void)torch::stable::detail::to<Tensor>(stack[0]);
}

// Whether torch.backends.cuda.matmul lets float32 products round their operands to TF32. The answer
// is Python's: see seqkern/recurrent/registration.py.
inline bool allows_tf32() {
  std::array<StableIValue, 1> stack{};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("seqkern::allows_tf32", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<bool>(stack[0]);
}

// ---- the call ----

class CudaLayer : public LayerCall {
 public:
  // `like`: a layer of the same call, to share what does not depend on weights and direction.
  explicit CudaLayer(const LayerArguments& arguments, const CudaLayer* like = nullptr)
      : LayerCall(arguments) {
    check(!arguments.w_hr,
          "the CUDA kernels have no projection (proj_size): use the backend "
          "'triton' or 'torch'");
    check(dtype == ScalarType::Float || dtype == ScalarType::BFloat16 || dtype == ScalarType::Half,
          "input should be float32, bfloat16 or float16 for the CUDA kernels");
    for (const auto& [name, t] :
         {std::pair<const char*, const Tensor&>{"w_ih", w_ih}, {"w_hh", w_hh}})
      check_device(name, t);
    if (h0) check_device("h0", *h0);
    precise_ = dtype == ScalarType::Float && !allows_tf32();
    if (dense) return;
    if (like) {
      table_ = like->table_;
      return;
    }
    check(
        !capturing(input),
        "a packed sequence cannot be captured in a CUDA graph by the CUDA kernels: its batch sizes "
        "are copied to the GPU in each call");
    upload_steps();
  }

  // Another tensor of the call: contiguous, of the right shape and dtype, on the input's device.
  OptionalTensor given(const char* name, const OptionalTensor& t, const Shape& shape) const {
    return given(name, t, shape, dtype);
  }
  OptionalTensor given(const char* name, const OptionalTensor& t, const Shape& shape,
                       ScalarType type) const {
    if (t) check_device(name, *t);
    return checked(name, t, shape, type);
  }

  static void check_biases(const OptionalTensor& b_ih, const OptionalTensor& b_hh) {
    check(b_ih.has_value() == b_hh.has_value(),
          "b_ih and b_hh should both be given or both be missing");
  }

  Tensor make(const Shape& shape) const { return new_tensor(input, shape, dtype); }
  Tensor make(const Shape& shape, ScalarType type) const { return new_tensor(input, shape, type); }

  // A piece of a contiguous tensor: its `index`-th one of the shape (rows, columns).
  static Tensor piece(const Tensor& t, int64_t index, int64_t rows, int64_t columns) {
    return matrix(t, rows, columns, columns, 1, index * rows * columns);
  }
  // `rows` x `columns` over all rows of a tensor whose rows are `stride` apart.
  Tensor rows_by(const Tensor& t, int64_t columns, int64_t stride, int64_t first_column = 0) const {
    return matrix(t, rows, columns, stride, 1, first_column);
  }
  Tensor input_rows() const { return rows_by(input, input_size, input_size); }

  int64_t steps() const { return static_cast<int64_t>(active.size()); }
  bool precise() const { return precise_; }
  LoopSteps loop_steps(Operands* operands) const {
    return {steps(), batch, reverse, operands->in<int64_t>("steps", table_)};
  }

 private:
  void check_device(const char* name, const Tensor& t) const {
    check(t.is_cuda() == input.is_cuda() && t.get_device_index() == input.get_device_index(), name,
          " should be on the same device as input");
  }

  // In the order of time. Copied from pinned memory, which torch keeps until the copy is done, so
  // nobody waits for it.
  void upload_steps() {
    const Shape shape = {2 * steps()};
    const Tensor host = torch::stable::empty(
        shape, ScalarType::Long, std::nullopt,
        torch::stable::Device(torch::headeronly::DeviceType::CPU), input.is_cuda());
    int64_t* to = static_cast<int64_t*>(host.mutable_data_ptr());
    const auto copy = [&](const std::vector<int64_t>& from, int64_t* to) {
      if (reverse)
        std::copy(from.rbegin(), from.rend(), to);
      else
        std::copy(from.begin(), from.end(), to);
    };
    copy(active, to);
    copy(offset, to + steps());
    Tensor table = make(shape, ScalarType::Long);
    torch::stable::copy_(table, host, true);
    table_ = table;
  }

  OptionalTensor table_;
  bool precise_;
};

}  // namespace seqkern
