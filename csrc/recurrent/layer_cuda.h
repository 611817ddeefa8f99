// A recurrent layer on a GPU, host side: checks, library products around the loop over time, and
// the loop's launches. A file for each cell (lstm_cuda.cu, ...) makes its operators from this.
//
// Before the loop the input is projected for all steps by one product; after the backward loop the
// gradients of all weights are products over all rows, those of the biases sums. What is saved is
// what the CPU's and Triton's kernels save.
//
// The code asks for nothing of CUDA by itself: tests compile it for the emulator and CPU tensors.
#pragma once

#ifdef __CUDACC__
#include <torch/csrc/stable/accelerator.h>
#endif
#include <torch/csrc/stable/library.h>

#include <array>
#include <memory>

#include "recurrent/layer_arguments.h"
#include "recurrent/layer_backward_kernels.cuh"
#include "recurrent/layer_forward_kernels.cuh"
#include "recurrent/layer_plan.h"
#include "recurrent/layer_prepare_kernels.cuh"

namespace seqkern {

// ---- what differs between a GPU and the emulator ----

// The current stream of a tensor's device.
device::Stream stream_of(const Tensor& t);
// How a loop is spread over a tensor's device.
LoopPlan plan_of(const LoopShape& shape, const Tensor& t);
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
    const size_t bytes = static_cast<size_t>(t.numel()) * t.element_size();
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
  STABLE_TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::mm", "out", stack.data(), TORCH_ABI_VERSION));
  (void)torch::stable::detail::to<Tensor>(stack[0]);
}

// Whether torch.backends.cuda.matmul lets float32 products round their operands to TF32. The answer
// is Python's: see seqkern/recurrent/device_operators.py.
inline bool allows_tf32() {
  std::array<StableIValue, 1> stack{};
  STABLE_TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("seqkern::allows_tf32", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<bool>(stack[0]);
}

// ---- the call ----

class CudaLayer : public LayerCall {
 public:
  explicit CudaLayer(const LayerArguments& arguments) : LayerCall(arguments) {
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

  Tensor make(const Shape& shape) const { return new_tensor(input, shape, dtype); }
  Tensor make(const Shape& shape, ScalarType type) const { return new_tensor(input, shape, type); }

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

  // Copied from pinned memory, which torch keeps until the copy is done, so nobody waits for it.
  void upload_steps() {
    const Shape shape = {2 * steps()};
    const Tensor host = torch::stable::empty(
        shape, ScalarType::Long, std::nullopt,
        torch::stable::Device(torch::headeronly::DeviceType::CPU), input.is_cuda());
    int64_t* to = static_cast<int64_t*>(host.mutable_data_ptr());
    std::copy(active.begin(), active.end(), to);
    std::copy(offset.begin(), offset.end(), to + steps());
    Tensor table = make(shape, ScalarType::Long);
    torch::stable::copy_(table, host, true);
    table_ = table;
  }

  OptionalTensor table_;
  bool precise_;
};

// ---- the loop ----

// The weights as the loop wants their rows; a copy unless they lie so already.
inline Tensor loop_weights(const CudaLayer& layer, const Tensor& weights) {
  const int64_t rows = weights.size(0), depth = weights.size(1);
  const int64_t aligned = 16 / static_cast<int64_t>(weights.element_size());
  const int64_t stride = quotient_up(depth, aligned) * aligned;
  const auto address = reinterpret_cast<uintptr_t>(weights.const_data_ptr());
  if (stride == depth && weights.is_contiguous() && address % 16 == 0) return weights;
  Tensor copy = layer.make({rows, stride});
  if (stride > depth) torch::stable::zero_(copy);
  Tensor inside = matrix(copy, rows, depth, stride, 1);
  torch::stable::copy_(inside, weights);
  return copy;
}

// What a loop's launches have in common for a Work (see layer_loop.cuh).
template <class S, class Work>
struct Launches {
  LoopPlan plan;
  Loop<S> loop;
  int64_t iterations;
  Tensor weights, exchange, arrived;

  // A row of `rows` for each sum that a unit wants; kept until the loop has run.
  Launches(const CudaLayer& layer, const Tensor& rows, int64_t more_iterations, Operands* operands)
      : iterations(layer.steps() + more_iterations), weights(loop_weights(layer, rows)) {
    const int64_t depth = rows.size(1), hidden = layer.sizes.hidden;
    LoopShape shape{};
    shape.units_a_warp = Work::kUnits;
    shape.row_tiles = Work::kRowTiles;
    shape.kept_chunks = Work::kKeptChunks;
    shape.hidden = hidden;
    shape.depth = depth;
    shape.batch = layer.batch;
    shape.steps = iterations;
    shape.element_bytes = static_cast<int>(sizeof(S));
    shape.products = layer.precise() ? 3 : 1;
    plan = plan_of(shape, layer.input);

    const int64_t stride = quotient_up(depth, kChunkDepth<S>) * kChunkDepth<S>;
    exchange = layer.make({2, layer.batch, stride});
    arrived = layer.make({plan.blocks()}, ScalarType::Int);
    loop.steps = layer.loop_steps(operands);
    loop.hidden = hidden;
    loop.weights = operands->in<S>("weights", weights);
    loop.depth = depth;
    loop.weights_stride = weights.stride(0);
    loop.precise = layer.precise();
    loop.exchange = operands->out<S>("exchange", exchange);
    loop.exchange_stride = stride;
    loop.arrived = operands->out<uint32_t>("arrived", arrived);
    loop.unit_blocks = plan.unit_blocks;
    loop.row_warps = plan.row_warps;
    loop.depth_warps = plan.depth_warps;
    loop.group_rows = plan.group_rows;
    loop.shared_chunks = plan.shared_chunks;
    loop.resident = plan.resident;
  }

  // The exchange, the blocks' words of the barrier and, where there is room for it, the sum of the
  // biases.
  void prepare(const CudaLayer& layer, const S* first, float* bias, const S* b_ih, const S* b_hh) {
    Preparation<S> p{};
    p.exchange = loop.exchange;
    p.batch = layer.batch;
    p.width = layer.sizes.hidden;
    p.exchange_stride = loop.exchange_stride;
    p.first = first;
    p.arrived = loop.arrived;
    p.blocks = plan.blocks();
    p.bias = bias;
    p.b_ih = b_ih;
    p.b_hh = b_hh;
    p.hidden = layer.sizes.hidden;
    p.gates = layer.gates;
    p.summed_gates = layer.cell == Cell::kGru ? 2 : layer.gates;
    device::launch(prepare_kernel<S>, elementwise(layer.batch * loop.exchange_stride),
                   stream_of(layer.input), p);
  }

  template <class Arguments>
  void run(void (*kernel)(Arguments), Arguments arguments, const CudaLayer& layer) {
    const device::Grid grid{plan.blocks(), plan.threads(), static_cast<int>(plan.shared_bytes)};
    const device::Stream stream = stream_of(layer.input);
    arguments.loop = loop;
    if (plan.resident) {
      arguments.loop.first = 0;
      arguments.loop.end = iterations;
      return device::launch_cooperative(kernel, grid, stream, arguments);
    }
    for (int64_t i = 0; i < iterations; ++i) {
      arguments.loop.first = i;
      arguments.loop.end = i + 1;
      device::launch(kernel, grid, stream, arguments);
    }
  }

  static device::Grid elementwise(int64_t count) {
    constexpr int64_t kThreads = 256, kMostBlocks = 1024;  // the kernels loop over the rest
    return {static_cast<int>(std::clamp<int64_t>(quotient_up(count, kThreads), 1, kMostBlocks)),
            static_cast<int>(kThreads)};
  }
};

// ---- forward ----

template <class S, template <class> class Work>
ForwardResult forward_loop(const CudaLayer& layer, const ForwardExtras& extras) {
  const int64_t hidden = layer.sizes.hidden;
  const bool lstm = layer.cell == Cell::kLstm, gru = layer.cell == Cell::kGru;
  const bool keep_gates = extras.save && (lstm || gru);
  const int64_t stride = (keep_gates ? 4 : layer.gates) * hidden;
  const auto none = [&] { return layer.make({0}); };
  const Shape states = layer.state_shape(hidden);
  const OptionalTensor c0 = layer.given("c0", extras.c0, states);
  check(extras.b_ih.has_value() == extras.b_hh.has_value(),
        "b_ih and b_hh should both be given or both be missing");
  check(!extras.packed, "packed weights are for the CPU kernels: seqkern.unfreeze_ the module");
  const OptionalTensor b_ih = layer.given("b_ih", extras.b_ih, {layer.gates * hidden}),
                       b_hh = layer.given("b_hh", extras.b_hh, {layer.gates * hidden});

  const Tensor gates =
      layer.make(keep_gates ? layer.shape_with(stride) : Shape{layer.rows, stride});
  ForwardResult result{layer.make(layer.shape_with(hidden)),
                       layer.make(states),
                       lstm ? layer.make(states) : none(),
                       keep_gates ? gates : none(),
                       extras.save && lstm ? layer.make(layer.shape_with(hidden), ScalarType::Float)
                                           : layer.make({0}, ScalarType::Float),
                       none()};
  if (layer.rows == 0) return result;
  product_out(layer.rows_by(gates, layer.gates * hidden, stride), layer.input_rows(),
              torch::stable::transpose(layer.w_ih, 0, 1));

  const Tensor bias = layer.make({(gru ? 4 : layer.gates) * hidden}, ScalarType::Float);
  const Tensor state = layer.make(states, ScalarType::Float);
  Operands operands;
  Launches<S, Work<S>> launches(layer, layer.w_hh, 0, &operands);
  ForwardLoop<S> arguments{};
  arguments.gates = operands.out<S>("gates", gates);
  arguments.gates_stride = stride;
  float* bias_sums = operands.out<float>("bias", bias);
  arguments.bias = bias_sums;
  arguments.h0 = operands.in<S>("h0", layer.h0);
  arguments.c0 = operands.in<S>("c0", c0);
  arguments.state = operands.out<float>("state", state);
  arguments.cells = operands.out<float>("cells", result.cells);
  arguments.output = operands.out<S>("output", result.output);
  arguments.h_n = operands.out<S>("h_n", result.h_n);
  arguments.c_n = operands.out<S>("c_n", result.c_n);
  arguments.save = keep_gates;
  arguments.relu = layer.cell == Cell::kRnnRelu;
  launches.prepare(layer, arguments.h0, bias_sums, operands.in<S>("b_ih", b_ih),
                   operands.in<S>("b_hh", b_hh));
  launches.run(forward_loop_kernel<S, Work>, arguments, layer);
  return result;
}

// ---- backward ----

// The gradients of the weights, the biases and the input from those of all gates' pre-activations:
// (rows, gates * H), the GRU's (rows, 4 H) as r, z, n's input part, n's state part.
template <class S>
void weight_gradients(const CudaLayer& layer, const Tensor& grads, const Tensor& output,
                      int64_t needs, BackwardResult* result) {
  const int64_t hidden = layer.sizes.hidden, rows = layer.rows, features = layer.input_size;
  const bool gru = layer.cell == Cell::kGru;
  const int64_t width = layer.gates * hidden, stride = gru ? 4 * hidden : width;
  if (needs & kNeedsInput) {
    result->grad_input = layer.make(layer.shape_with(features));
    product_out(layer.rows_by(result->grad_input, features, features),
                layer.rows_by(grads, width, stride), layer.w_ih);
  }
  if (needs & kNeedsInputWeights) {
    result->grad_w_ih = layer.make({width, features});
    product_out(result->grad_w_ih, matrix(grads, width, rows, 1, stride), layer.input_rows());
  }
  if (needs & kNeedsStateWeights) {
    result->grad_w_hh = layer.make({width, hidden});
    const Tensor before = layer.make({rows, hidden});
    {
      Operands operands;
      const device::Grid grid = {static_cast<int>(std::clamp<int64_t>(layer.steps(), 1, 4096)),
                                 256};
      device::launch(states_before_kernel<S>, grid, stream_of(layer.input),
                     layer.loop_steps(&operands), hidden, operands.in<S>("output", output),
                     operands.in<S>("h0", layer.h0), operands.out<S>("before", before));
    }
    const int64_t together = gru ? 2 * hidden : width;
    product_out(matrix(result->grad_w_hh, together, hidden, hidden, 1),
                matrix(grads, together, rows, 1, stride), before);
    if (gru)
      product_out(matrix(result->grad_w_hh, hidden, hidden, hidden, 1, together * hidden),
                  matrix(grads, hidden, rows, 1, stride, 3 * hidden), before);
  }
  if (needs & kNeedsBiases) {
    Tensor sums = layer.make({stride}, ScalarType::Float);
    const int64_t over_rows[] = {0};
    torch::stable::sum_out(sums, layer.rows_by(grads, stride, stride), over_rows, false,
                           ScalarType::Float);
    const auto piece = [&](const Tensor& to, int64_t first, int64_t count, int64_t from) {
      Tensor target = matrix(to, 1, count, count, 1, first);
      torch::stable::copy_(target, matrix(sums, 1, count, count, 1, from));
    };
    result->grad_b_ih = layer.make({width});
    piece(result->grad_b_ih, 0, width, 0);
    if (gru) {
      result->grad_b_hh = layer.make({width});
      piece(result->grad_b_hh, 0, 2 * hidden, 0);
      piece(result->grad_b_hh, 2 * hidden, hidden, 3 * hidden);
    }
  }
}

template <class S, template <class> class Work>
BackwardResult backward_loop(const CudaLayer& layer, const BackwardExtras& extras) {
  const int64_t hidden = layer.sizes.hidden, needs = extras.needs;
  const bool lstm = layer.cell == Cell::kLstm, gru = layer.cell == Cell::kGru;
  const Shape states = layer.state_shape(hidden), all = layer.shape_with(hidden);
  const auto none = [&] { return layer.make({0}); };
  BackwardResult result{none(), none(), none(), none(), none(), none(), none(), none()};
  const OptionalTensor output = layer.given("output", extras.output, all);
  const OptionalTensor grad_output = layer.given("grad_output", extras.grad_output, all);
  const OptionalTensor grad_h_n = layer.given("grad_h_n", extras.grad_h_n, states);
  OptionalTensor c0, grad_c_n, gates, cells;
  if (lstm) {
    c0 = layer.given("c0", extras.c0, states);
    grad_c_n = layer.given("grad_c_n", extras.grad_c_n, states);
    cells = layer.given("cells", extras.cells, all, ScalarType::Float);
  }
  if (lstm || gru) gates = layer.given("gates", extras.gates, layer.shape_with(4 * hidden));

  const Tensor grads = layer.make({layer.rows, (gru ? 4 : layer.gates) * hidden});
  if (needs & kNeedsH0) result.grad_h0 = layer.make(states);
  if (needs & kNeedsC0 && lstm) result.grad_c0 = layer.make(states);
  if (layer.rows > 0) {
    const Tensor carry = layer.make(lstm || gru ? states : Shape{0}, ScalarType::Float);
    Operands operands;
    Launches<S, Work<S>> launches(layer, torch::stable::transpose(layer.w_hh, 0, 1), 1, &operands);
    BackwardLoop<S> arguments{};
    arguments.gates = operands.in<S>("gates", gates);
    arguments.cells = operands.in<float>("cells", cells);
    arguments.output = operands.in<S>("output", output);
    arguments.h0 = operands.in<S>("h0", layer.h0);
    arguments.c0 = operands.in<S>("c0", c0);
    arguments.grad_output = operands.in<S>("grad_output", grad_output);
    arguments.grad_h_n = operands.in<S>("grad_h_n", grad_h_n);
    arguments.grad_c_n = operands.in<S>("grad_c_n", grad_c_n);
    arguments.grad_gates = operands.out<S>("grad_gates", grads);
    arguments.carry = operands.out<float>("carry", carry);
    arguments.grad_h0 = operands.out<S>("grad_h0", result.grad_h0);
    arguments.grad_c0 = operands.out<S>("grad_c0", result.grad_c0);
    arguments.relu = layer.cell == Cell::kRnnRelu;
    launches.prepare(layer, nullptr, nullptr, nullptr, nullptr);
    launches.run(backward_loop_kernel<S, Work>, arguments, layer);
  }
  weight_gradients<S>(layer, grads, *output, needs, &result);
  return result;
}

// ---- by dtype ----

template <template <class> class Work>
ForwardResult forward(const CudaLayer& layer, const ForwardExtras& extras) {
  switch (layer.dtype) {
    case ScalarType::BFloat16:
      return forward_loop<device::bfloat16, Work>(layer, extras);
    case ScalarType::Half:
      return forward_loop<device::float16, Work>(layer, extras);
    default:
      return forward_loop<float, Work>(layer, extras);
  }
}

template <template <class> class Work>
BackwardResult backward(const CudaLayer& layer, const BackwardExtras& extras) {
  switch (layer.dtype) {
    case ScalarType::BFloat16:
      return backward_loop<device::bfloat16, Work>(layer, extras);
    case ScalarType::Half:
      return backward_loop<device::float16, Work>(layer, extras);
    default:
      return backward_loop<float, Work>(layer, extras);
  }
}

}  // namespace seqkern
