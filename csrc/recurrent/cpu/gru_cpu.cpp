// The GRU's CPU operators.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "recurrent/cpu/backward_cpu.h"
#include "recurrent/cpu/forward_cpu.h"

namespace seqkern {
namespace {

using ThreeTensors = std::tuple<Tensor, Tensor, Tensor>;
using SixTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

ThreeTensors gru_forward(const Tensor& input, const OptionalTensor& h0, const Tensor& w_ih,
                         const Tensor& w_hh, const OptionalTensor& b_ih, const OptionalTensor& b_hh,
                         const OptionalTensor& packed, const OptionalTensor& batch_sizes,
                         bool reverse, bool save) {
  const Layer layer({Cell::kGru, input, h0, w_ih, w_hh, std::nullopt, batch_sizes, reverse});
  ForwardResult r = forward(layer, {std::nullopt, b_ih, b_hh, packed, save});
  return {r.output, r.h_n, r.gates};
}

SixTensors gru_backward(const OptionalTensor& grad_output, const OptionalTensor& grad_h_n,
                        const Tensor& input, const OptionalTensor& h0, const Tensor& w_ih,
                        const Tensor& w_hh, const OptionalTensor& batch_sizes, const Tensor& output,
                        const Tensor& gates, bool reverse, int64_t needs) {
  const Layer layer({Cell::kGru, input, h0, w_ih, w_hh, std::nullopt, batch_sizes, reverse});
  BackwardResult r = backward(layer, {grad_output, grad_h_n, std::nullopt, std::nullopt, output,
                                      gates, gates, gates, needs});
  return {r.grad_input, r.grad_h0, r.grad_w_ih, r.grad_w_hh, r.grad_b_ih, r.grad_b_hh};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(seqkern, CPU, m) {
  m.impl("gru_forward", TORCH_BOX(&gru_forward));
  m.impl("gru_backward", TORCH_BOX(&gru_backward));
}

}  // namespace seqkern
