// The LSTM's CPU operators.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "recurrent/cpu/backward_cpu.h"
#include "recurrent/cpu/forward_cpu.h"

namespace seqkern {
namespace {

using SixTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
using SevenTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

SixTensors lstm_forward(const Tensor& input, const OptionalTensor& h0, const OptionalTensor& c0,
                        const Tensor& w_ih, const Tensor& w_hh, const OptionalTensor& b_ih,
                        const OptionalTensor& b_hh, const OptionalTensor& w_hr,
                        const OptionalTensor& packed, const OptionalTensor& batch_sizes,
                        bool reverse, bool save) {
  const Layer layer({Cell::kLstm, input, h0, w_ih, w_hh, w_hr, batch_sizes, reverse});
  ForwardResult r = forward(layer, {c0, b_ih, b_hh, packed, save});
  return {r.output, r.h_n, r.c_n, r.gates, r.cells, r.hidden};
}

SevenTensors lstm_backward(const OptionalTensor& grad_output, const OptionalTensor& grad_h_n,
                           const OptionalTensor& grad_c_n, const Tensor& input,
                           const OptionalTensor& h0, const OptionalTensor& c0, const Tensor& w_ih,
                           const Tensor& w_hh, const OptionalTensor& w_hr,
                           const OptionalTensor& batch_sizes, const Tensor& output,
                           const Tensor& gates, const Tensor& cells, const Tensor& hidden,
                           bool reverse, int64_t needs) {
  const Layer layer({Cell::kLstm, input, h0, w_ih, w_hh, w_hr, batch_sizes, reverse});
  BackwardResult r =
      backward(layer, {grad_output, grad_h_n, grad_c_n, c0, output, gates, cells, hidden, needs});
  return {r.grad_input, r.grad_h0, r.grad_c0, r.grad_w_ih, r.grad_w_hh, r.grad_b_ih, r.grad_w_hr};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(seqkern, CPU, m) {
  m.impl("lstm_forward", TORCH_BOX(&lstm_forward));
  m.impl("lstm_backward", TORCH_BOX(&lstm_backward));
}

}  // namespace seqkern
