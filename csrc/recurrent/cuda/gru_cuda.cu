// The GRU's CUDA operators.
#include <tuple>

#include "recurrent/cuda/runs.h"

namespace seqkern {
namespace {

using ThreeTensors = std::tuple<Tensor, Tensor, Tensor>;
using SixTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

ThreeTensors gru_forward(const Tensor& input, const OptionalTensor& h0, const Tensor& w_ih,
                         const Tensor& w_hh, const OptionalTensor& b_ih, const OptionalTensor& b_hh,
                         const OptionalTensor& packed, const OptionalTensor& batch_sizes,
                         bool reverse, bool save) {
  const OnDeviceOf guard(input);
  const CudaLayer layer({Cell::kGru, input, h0, w_ih, w_hh, std::nullopt, batch_sizes, reverse});
  ForwardResult r = forward_layer(layer, {std::nullopt, b_ih, b_hh, packed, save});
  return {r.output, r.h_n, r.gates};
}

SixTensors gru_backward(const OptionalTensor& grad_output, const OptionalTensor& grad_h_n,
                        const Tensor& input, const OptionalTensor& h0, const Tensor& w_ih,
                        const Tensor& w_hh, const OptionalTensor& batch_sizes, const Tensor& output,
                        const Tensor& gates, bool reverse, int64_t needs) {
  const OnDeviceOf guard(input);
  const CudaLayer layer({Cell::kGru, input, h0, w_ih, w_hh, std::nullopt, batch_sizes, reverse});
  BackwardResult r = backward_layer(layer, {grad_output, grad_h_n, std::nullopt, std::nullopt,
                                            output, gates, gates, gates, needs});
  return {r.grad_input, r.grad_h0, r.grad_w_ih, r.grad_w_hh, r.grad_b_ih, r.grad_b_hh};
}

}  // namespace

void run_gru_forward(const ForwardTasks& tasks, bool wave) {
  if (wave) return run_forward<GruWaveForward>(tasks, true);
  run_forward<GruForward>(tasks, false);
}
void run_gru_backward(const BackwardTasks& tasks, bool wave) {
  run_backward<GruBackward>(tasks, wave);
}
int gru_wave(const CudaLayer& layer, int64_t layers, bool backward) {
  return planned_wave<GruForward, GruWaveForward, GruBackward>(layer, layers, backward);
}

SEQKERN_GPU_OPERATORS(m) {
  m.impl("gru_forward", TORCH_BOX(&gru_forward));
  m.impl("gru_backward", TORCH_BOX(&gru_backward));
}

}  // namespace seqkern
