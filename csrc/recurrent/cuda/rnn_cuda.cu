// The Elman RNN's CUDA operators.
#include <tuple>

#include "recurrent/cuda/runs.h"

namespace seqkern {

namespace {

using TwoTensors = std::tuple<Tensor, Tensor>;
using FiveTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

TwoTensors rnn_forward(const Tensor& input, const OptionalTensor& h0, const Tensor& w_ih,
                       const Tensor& w_hh, const OptionalTensor& b_ih, const OptionalTensor& b_hh,
                       const OptionalTensor& packed, const OptionalTensor& batch_sizes, bool relu,
                       bool reverse, bool save) {
  const OnDeviceOf guard(input);
  const CudaLayer layer({relu ? Cell::kRnnRelu : Cell::kRnnTanh, input, h0, w_ih, w_hh,
                         std::nullopt, batch_sizes, reverse});
  ForwardResult r = forward_layer(layer, {std::nullopt, b_ih, b_hh, packed, save});
  return {r.output, r.h_n};
}

FiveTensors rnn_backward(const OptionalTensor& grad_output, const OptionalTensor& grad_h_n,
                         const Tensor& input, const OptionalTensor& h0, const Tensor& w_ih,
                         const Tensor& w_hh, const OptionalTensor& batch_sizes,
                         const Tensor& output, bool relu, bool reverse, int64_t needs) {
  const OnDeviceOf guard(input);
  const CudaLayer layer({relu ? Cell::kRnnRelu : Cell::kRnnTanh, input, h0, w_ih, w_hh,
                         std::nullopt, batch_sizes, reverse});
  BackwardResult r = backward_layer(layer, {grad_output, grad_h_n, std::nullopt, std::nullopt,
                                            output, output, output, output, needs});
  return {r.grad_input, r.grad_h0, r.grad_w_ih, r.grad_w_hh, r.grad_b_ih};
}

}  // namespace

void run_rnn_forward(const ForwardTasks& tasks, bool wave) {
  run_forward<RnnForward>(tasks, wave);
}
void run_rnn_backward(const BackwardTasks& tasks, bool wave) {
  run_backward<RnnBackward>(tasks, wave);
}
int rnn_wave(const CudaLayer& layer, int64_t layers, bool backward) {
  return planned_wave<RnnForward, RnnForward, RnnBackward>(layer, layers, backward);
}

SEQKERN_GPU_OPERATORS(m) {
  m.impl("rnn_forward", TORCH_BOX(&rnn_forward));
  m.impl("rnn_backward", TORCH_BOX(&rnn_backward));
}

}  // namespace seqkern
