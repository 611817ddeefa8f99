// The CPU operators of a single step: the cells.
//
// A call takes a few microseconds, so they are kept apart from the layers' operators: few arguments
// and results, nothing allocated that is not returned, no views.
#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/BFloat16.h>

#include <algorithm>
#include <cstring>
#include <tuple>
#include <vector>

#include "common/matmul_cpu.h"
#include "common/scratch.h"
#include "recurrent/cpu/forward_cpu.h"
#include "recurrent/cpu/step_kernels.h"

namespace seqkern {
namespace {

using torch::headeronly::BFloat16;

template <class Args>
void run_step(void (*kernel)(const Args&, Slots, Barrier&), const Args& args) {
  if (args.split.slots > 1) return run_slots(kernel, args);
  Barrier barrier(1);
  kernel(args, Slots{0, 1, 1}, barrier);
}

// A checked call; tensors are contiguous.
class Step {
 public:
  Step(Cell cell_, const Tensor& input_, const OptionalTensor& h0_, const OptionalTensor& c0_,
       const Tensor& w_ih_, const Tensor& w_hh_)
      : cell(cell_),
        input(as_contiguous(input_)),
        w_ih(as_contiguous(w_ih_)),
        w_hh(as_contiguous(w_hh_)),
        h0(as_contiguous(h0_)),
        c0(as_contiguous(c0_)),
        dtype(input.scalar_type()),
        kernels(step_kernels(storage_of("input", dtype), cell)) {
    check(input.dim() == 2, "input should have 2 dimensions, but it has ", input.dim());
    check(w_ih.dim() == 2 && w_hh.dim() == 2,
          "w_ih and w_hh should have 2 dimensions, but they have ", w_ih.dim(), " and ",
          w_hh.dim());
    sizes = {input.size(0), input.size(1), w_hh.size(1)};
    rows = gates_of(cell) * sizes.hidden;
    check_matrix("w_ih", w_ih, rows, sizes.inputs);
    check_matrix("w_hh", w_hh, rows, sizes.hidden);
    if (h0) check_matrix("h0", *h0, sizes.batch, sizes.hidden);
    if (c0) check_matrix("c0", *c0, sizes.batch, sizes.hidden);
  }

  void check_matrix(const char* name, const Tensor& t, int64_t first, int64_t second) const {
    if (t.dim() != 2 || t.size(0) != first || t.size(1) != second)
      check_shape(name, t, {first, second});
    check_dtype(name, t);
  }

  void check_dtype(const char* name, const Tensor& t) const {
    check(t.scalar_type() == dtype, name, " should have the dtype of input");
  }

  OptionalTensor checked(const char* name, const OptionalTensor& t, int64_t columns) const {
    if (t) check_matrix(name, *t, sizes.batch, columns);
    return as_contiguous(t);
  }

  OptionalTensor checked_bias(const char* name, const OptionalTensor& t) const {
    if (!t) return t;
    if (t->dim() != 1 || t->size(0) != rows) check_shape(name, *t, {rows});
    check_dtype(name, *t);
    return as_contiguous(t);
  }

  // How many threads so many multiply-adds are worth: entering a parallel region costs about as
  // much as a hundred thousand.
  static Split split(int64_t work) {
    const int64_t worth = work / 100000;
    if (worth <= 1) return {1, false};
    return {static_cast<int>(std::min<int64_t>(torch::stable::get_num_threads(), worth)), false};
  }

  // Null where the layers' forward is better.
  const StepForward* forward() const {
    for (const StepForward& kernel : kernels.forward)
      if (kernel.run && (sizes.hidden == 0 || kernel.takes(sizes))) return &kernel;
    return nullptr;
  }

  Tensor states() const { return empty({sizes.batch, sizes.hidden}, dtype); }

  const Cell cell;
  const Tensor input, w_ih, w_hh;
  const OptionalTensor h0, c0;
  const ScalarType dtype;
  const StepKernels& kernels;
  StepSizes sizes;
  int64_t rows;  // of the weights
};

struct Stepped {
  Tensor h;
  OptionalTensor c, gates;
};

// `save`: the activated gates, which the backward of the LSTM and the GRU needs.
Stepped step_forward(const Step& step, const OptionalTensor& b_ih_, const OptionalTensor& b_hh_,
                     bool save) {
  const StepSizes& sizes = step.sizes;
  const bool lstm = step.cell == Cell::kLstm, gated = lstm || step.cell == Cell::kGru;
  check(b_ih_.has_value() == b_hh_.has_value(),
        "b_ih and b_hh should both be given or both be missing");
  const StepForward* kernel = step.forward();
  if (!kernel) {
    const Layer layer(
        {step.cell, step.input, step.h0, step.w_ih, step.w_hh, std::nullopt, std::nullopt, false});
    const ForwardResult r = forward(layer, {step.c0, b_ih_, b_hh_, std::nullopt, save && gated});
    return {r.output, lstm ? OptionalTensor(r.c_n) : std::nullopt,
            save && gated ? OptionalTensor(r.gates) : std::nullopt};
  }
  const OptionalTensor b_ih = step.checked_bias("b_ih", b_ih_),
                       b_hh = step.checked_bias("b_hh", b_hh_);
  Stepped result{step.states(), std::nullopt, std::nullopt};
  if (lstm) result.c = step.states();
  if (save && gated) result.gates = empty({sizes.batch, 4 * sizes.hidden}, step.dtype);

  StepForwardArgs args{};
  args.sizes = sizes;
  args.split = step.split(kernel->work(sizes));
  args.input = step.input.const_data_ptr();
  args.h0 = data(step.h0);
  args.c0 = data(step.c0);
  args.w_ih = step.w_ih.const_data_ptr();
  args.w_hh = step.w_hh.const_data_ptr();
  args.b_ih = data(b_ih);
  args.b_hh = data(b_hh);
  args.h = result.h.mutable_data_ptr();
  args.c = result.c ? result.c->mutable_data_ptr() : nullptr;
  args.gates = result.gates ? result.gates->mutable_data_ptr() : nullptr;
  Scratch operand(kernel->operand_bytes(sizes));
  args.operand = operand.data();
  if (sizes.batch > 0 && sizes.hidden > 0) run_step(kernel->run, args);
  return result;
}

// Which gradients the caller wants, in the order of the forward's arguments.
enum StepNeeds : int64_t {
  kStepInput = 1,
  kStepH0 = 2,
  kStepC0 = 4,
  kStepInputWeights = 8,
  kStepStateWeights = 16,
  kStepInputBias = 32,
  kStepStateBias = 64,
};

struct StepGrads {
  OptionalTensor input, h0, c0, w_ih, w_hh, b_ih, b_hh;
};

void* room(const OptionalTensor& t) {
  return t ? t->mutable_data_ptr() : nullptr;
}

// The gradient of w_hh where the state was left out: zero, but for gradients that are not finite.
template <class S>
void multiply_zeros(const Step& step, const Tensor& grad_gates, const Tensor& grad_w_hh) {
  const int64_t stride = step_grad_gates(step.cell, step.sizes.hidden), rows = step.rows;
  const S* grads = static_cast<const S*>(grad_gates.const_data_ptr()) + stride - rows;
  std::vector<S> products(rows, S(0));
  for (int64_t r = 0; r < step.sizes.batch; ++r)
    for (int64_t j = 0; j < rows; ++j) products[j] += grads[r * stride + j] * S(0);
  S* to = static_cast<S*>(grad_w_hh.mutable_data_ptr());
  for (int64_t j = 0; j < rows; ++j, to += step.sizes.hidden)
    std::fill(to, to + step.sizes.hidden, products[j]);
}

// The products of the backward by a library, from grad_gates in the storage type.
void multiply(const Step& step, const Tensor& grad_gates, const StepGrads& grads) {
  const StepSizes& sizes = step.sizes;
  const int64_t rows = step.rows, stride = step_grad_gates(step.cell, sizes.hidden),
                state_part = stride - rows;
  const auto columns = [&](int64_t first) {
    return matrix(grad_gates, sizes.batch, rows, stride, 1, first);
  };
  const auto transposed = [&](int64_t first) {
    return matrix(grad_gates, rows, sizes.batch, 1, stride, first);
  };
  if (grads.input) matmul_out(*grads.input, columns(0), step.w_ih);
  if (grads.h0)
    (step.cell == Cell::kGru ? matmul_add : matmul_out)(*grads.h0, columns(state_part), step.w_hh);
  if (grads.w_ih) matmul_out(*grads.w_ih, transposed(0), step.input);
  if (grads.w_hh && step.h0)
    matmul_out(*grads.w_hh, transposed(state_part), *step.h0);
  else if (grads.w_hh && step.dtype == ScalarType::Double)
    multiply_zeros<double>(step, grad_gates, *grads.w_hh);
  else if (grads.w_hh && step.dtype == ScalarType::Float)
    multiply_zeros<float>(step, grad_gates, *grads.w_hh);
  else if (grads.w_hh)
    multiply_zeros<BFloat16>(step, grad_gates, *grads.w_hh);
}

StepGrads step_backward(const Step& step, const OptionalTensor& grad_h_,
                        const OptionalTensor& grad_c_, const Tensor& saved_, int64_t needs) {
  const StepSizes& sizes = step.sizes;
  const bool rnn = step.cell != Cell::kLstm && step.cell != Cell::kGru;
  const OptionalTensor grad_h = step.checked("grad_h", grad_h_, sizes.hidden),
                       grad_c = step.checked("grad_c", grad_c_, sizes.hidden);
  const Tensor saved = *step.checked(rnn ? "h" : "gates", saved_, (rnn ? 1 : 4) * sizes.hidden);

  StepGrads grads;
  if (needs & kStepInput) grads.input = empty({sizes.batch, sizes.inputs}, step.dtype);
  if (needs & kStepH0) grads.h0 = step.states();
  if (needs & kStepC0) grads.c0 = step.states();
  if (needs & kStepInputWeights) grads.w_ih = empty({step.rows, sizes.inputs}, step.dtype);
  if (needs & kStepStateWeights) grads.w_hh = empty({step.rows, sizes.hidden}, step.dtype);
  if (needs & kStepInputBias) grads.b_ih = empty({step.rows}, step.dtype);
  if (needs & kStepStateBias) grads.b_hh = empty({step.rows}, step.dtype);

  if (sizes.hidden == 0) {  // all but the input's gradient are empty
    if (grads.input && grads.input->numel())
      std::memset(grads.input->mutable_data_ptr(), 0,
                  grads.input->numel() * grads.input->element_size());
    return grads;
  }

  StepBackwardArgs args{};
  args.products = sizes.batch > 0 && sizes.batch <= step.kernels.product_rows;
  args.wide = args.products || step.dtype != ScalarType::BFloat16;
  const int64_t width = step_grad_gates(step.cell, sizes.hidden);
  const int64_t element = step.dtype == ScalarType::Double ? 8 : args.wide ? 4 : 2;
  const bool own_carry = step.dtype == ScalarType::BFloat16 && args.wide;
  // A library's products want a tensor.
  Scratch scratch(args.products ? sizes.batch * (width + own_carry * sizes.hidden) * element : 0);
  OptionalTensor grad_gates;
  if (args.products) {
    args.grad_gates = scratch.data();
  } else {
    grad_gates = empty({sizes.batch, width}, step.dtype);
    args.grad_gates = grad_gates->mutable_data_ptr();
  }
  args.sizes = sizes;
  int64_t work = sizes.batch * sizes.hidden * 100;  // the cell: about as many multiply-adds
  if (args.products)
    work += sizes.batch * step.rows *
            (((grads.input ? 1 : 0) + (grads.w_ih ? 1 : 0)) * sizes.inputs +
             ((grads.h0 ? 1 : 0) + (grads.w_hh ? 1 : 0)) * sizes.hidden);
  args.split = step.split(work);
  args.input = step.input.const_data_ptr();
  args.h0 = data(step.h0);
  args.c0 = data(step.c0);
  args.w_ih = step.w_ih.const_data_ptr();
  args.w_hh = step.w_hh.const_data_ptr();
  (rnn ? args.h : args.gates) = saved.const_data_ptr();
  args.grad_h = data(grad_h);
  args.grad_c = data(grad_c);
  args.grad_input = room(grads.input);
  args.grad_h0 = room(grads.h0);
  args.grad_c0 = room(grads.c0);
  args.grad_w_ih = room(grads.w_ih);
  args.grad_w_hh = room(grads.w_hh);
  args.grad_b_ih = room(grads.b_ih);
  args.grad_b_hh = room(grads.b_hh);
  args.carry = own_carry && grads.h0
                   ? static_cast<char*>(scratch.data()) + sizes.batch * width * element
                   : args.grad_h0;
  run_step(step.kernels.backward, args);
  if (!args.products) multiply(step, *grad_gates, grads);
  return grads;
}

// ---- the operators ----

std::tuple<Tensor, Tensor, OptionalTensor> lstm_cell_forward(
    const Tensor& input, const OptionalTensor& h0, const OptionalTensor& c0, const Tensor& w_ih,
    const Tensor& w_hh, const OptionalTensor& b_ih, const OptionalTensor& b_hh, bool save) {
  Stepped r = step_forward(Step(Cell::kLstm, input, h0, c0, w_ih, w_hh), b_ih, b_hh, save);
  return {r.h, *r.c, r.gates};
}

std::tuple<OptionalTensor, OptionalTensor, OptionalTensor, OptionalTensor, OptionalTensor,
           OptionalTensor, OptionalTensor>
lstm_cell_backward(const OptionalTensor& grad_h, const OptionalTensor& grad_c, const Tensor& input,
                   const OptionalTensor& h0, const OptionalTensor& c0, const Tensor& w_ih,
                   const Tensor& w_hh, const Tensor& gates, int64_t needs) {
  StepGrads g =
      step_backward(Step(Cell::kLstm, input, h0, c0, w_ih, w_hh), grad_h, grad_c, gates, needs);
  return {g.input, g.h0, g.c0, g.w_ih, g.w_hh, g.b_ih, g.b_hh};
}

using SixGrads = std::tuple<OptionalTensor, OptionalTensor, OptionalTensor, OptionalTensor,
                            OptionalTensor, OptionalTensor>;

std::tuple<Tensor, OptionalTensor> gru_cell_forward(const Tensor& input, const OptionalTensor& h0,
                                                    const Tensor& w_ih, const Tensor& w_hh,
                                                    const OptionalTensor& b_ih,
                                                    const OptionalTensor& b_hh, bool save) {
  Stepped r = step_forward(Step(Cell::kGru, input, h0, std::nullopt, w_ih, w_hh), b_ih, b_hh, save);
  return {r.h, r.gates};
}

SixGrads gru_cell_backward(const OptionalTensor& grad_h, const Tensor& input,
                           const OptionalTensor& h0, const Tensor& w_ih, const Tensor& w_hh,
                           const Tensor& gates, int64_t needs) {
  StepGrads g = step_backward(Step(Cell::kGru, input, h0, std::nullopt, w_ih, w_hh), grad_h,
                              std::nullopt, gates, needs & ~kStepC0);
  return {g.input, g.h0, g.w_ih, g.w_hh, g.b_ih, g.b_hh};
}

Cell rnn(bool relu) {
  return relu ? Cell::kRnnRelu : Cell::kRnnTanh;
}

Tensor rnn_cell_forward(const Tensor& input, const OptionalTensor& h0, const Tensor& w_ih,
                        const Tensor& w_hh, const OptionalTensor& b_ih, const OptionalTensor& b_hh,
                        bool relu) {
  return step_forward(Step(rnn(relu), input, h0, std::nullopt, w_ih, w_hh), b_ih, b_hh, false).h;
}

SixGrads rnn_cell_backward(const OptionalTensor& grad_h, const Tensor& input,
                           const OptionalTensor& h0, const Tensor& w_ih, const Tensor& w_hh,
                           const Tensor& h, bool relu, int64_t needs) {
  StepGrads g = step_backward(Step(rnn(relu), input, h0, std::nullopt, w_ih, w_hh), grad_h,
                              std::nullopt, h, needs & ~kStepC0);
  return {g.input, g.h0, g.w_ih, g.w_hh, g.b_ih, g.b_hh};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(seqkern, CPU, m) {
  m.impl("lstm_cell_forward", TORCH_BOX(&lstm_cell_forward));
  m.impl("lstm_cell_backward", TORCH_BOX(&lstm_cell_backward));
  m.impl("gru_cell_forward", TORCH_BOX(&gru_cell_forward));
  m.impl("gru_cell_backward", TORCH_BOX(&gru_cell_backward));
  m.impl("rnn_cell_forward", TORCH_BOX(&rnn_cell_forward));
  m.impl("rnn_cell_backward", TORCH_BOX(&rnn_cell_backward));
}

}  // namespace seqkern
