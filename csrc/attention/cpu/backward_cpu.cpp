// The operators attention_backward and attention_dense_backward on the CPU.
#include "attention/cpu/backward_cpu.h"

#include <torch/csrc/stable/library.h>

#include <array>
#include <cstring>
#include <tuple>

#include "attention/cpu/schedule.h"

namespace seqkern {

Tensor zeros(const Shape& shape, ScalarType dtype) {
  const Tensor t = empty(shape, dtype);
  if (t.numel()) std::memset(t.mutable_data_ptr(), 0, t.numel() * t.element_size());
  return t;
}

BiasSums::BiasSums(const Tensor& bias, const CheckedCall& arguments)
    : sums(zeros({bias.size(0), bias.size(1), bias.size(2),
                  bias.size(2) == 1 ? arguments.problem.keys : bias.size(3)},
                 arguments.compute_dtype)) {
  const auto stride = [&](int i) { return sums.size(i) == 1 ? 0 : sums.stride(i); };
  view = {sums.const_data_ptr(), stride(0), stride(1), stride(2), stride(3)};
}

Tensor BiasSums::gradient(const Tensor& bias) const {
  Tensor result = sums;
  if (bias.size(3) != sums.size(3)) {
    const int64_t last[] = {3};
    result = torch::stable::sum(sums, last, true);
  }
  return torch::stable::to(result, bias.scalar_type());
}

void run_backward(const CheckedCall& arguments, BackwardCall& call) {
  const Problem& p = arguments.problem;
  call.unit_batch = call.unit_heads = 1;
  if (call.grad_bias.data) {
    if (call.grad_bias.batch == 0) call.unit_batch = p.batch;
    if (call.grad_bias.head == 0) call.unit_heads = p.kv_heads;
  }
  const int64_t heads = p.batch * p.kv_heads;
  if (heads == 0) return;
  const AttentionKernels& kernels = attention_kernels(arguments.storage);
  run_units(kernels.backward, call, heads / (call.unit_batch * call.unit_heads),
            2.5 * arguments.work(), kernels.backward_shared, kernels.backward_own);
}

namespace {

using FiveTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

// What every operator's backward has beside the arguments of its forward.
struct SavedAndGradients {
  const Tensor& grad_output;
  const OptionalTensor &output, &lse;  // both or none
  const OptionalTensor& grad_lse;
};

using Gradients = std::array<OptionalTensor, 5>;  // in the order of AttentionNeeds

Gradients gradients(const AttentionArguments& arguments, const SavedAndGradients& saved,
                    const OptionalTensor& bias, int64_t needs) {
  const Problem& p = arguments.problem;
  const Tensor grad = arguments.checked_output("grad_output", saved.grad_output);
  OptionalTensor output, lse, grad_lse;
  if (saved.lse) {
    check(saved.output.has_value(), "lse is given without output");
    output = arguments.checked_output("output", *saved.output);
    lse = arguments.checked_lse("lse", *saved.lse);
    if (saved.grad_lse) grad_lse = arguments.checked_lse("grad_lse", *saved.grad_lse);
  } else {
    check(arguments.small() && !p.sinks && !saved.grad_lse,
          "output and lse may be missing only for small calls without sinks");
  }

  BackwardCall call{};
  call.problem = p;
  if (output) call.output = arguments.rows(*output);
  call.grad_output = arguments.rows(grad);
  call.lse = data(lse);
  call.grad_lse = data(grad_lse);
  call.lse_batch = arguments.lse_batch();
  call.lse_head = arguments.lse_head();
  Gradients found;
  const auto rows_like = [&](OptionalTensor& gradient, const Tensor& like, int64_t features) {
    gradient = arguments.result_like(like, features);
    return arguments.rows(*gradient);
  };
  if (needs & kQuery) call.grad_query = rows_like(found[0], arguments.query, p.dim);
  if (needs & kKey) call.grad_key = rows_like(found[1], arguments.key, p.dim);
  if (needs & kValue) call.grad_value = rows_like(found[2], arguments.value, p.value_dim);
  if (needs & kSlopes) {
    found[4] = zeros({p.batch, p.heads}, arguments.compute_dtype);
    call.grad_slopes = found[4]->mutable_data_ptr();
  }
  std::optional<BiasSums> bias_sums;
  if (needs & kBias) {
    bias_sums.emplace(*bias, arguments);
    call.grad_bias = bias_sums->view;
  }
  run_backward(arguments, call);
  if (bias_sums) found[3] = bias_sums->gradient(*bias);
  return found;
}

FiveTensors attention_backward(const Tensor& grad_output, const OptionalTensor& grad_lse,
                               const Tensor& query, const Tensor& key, const Tensor& value,
                               const Tensor& output, const Tensor& lse, const OptionalTensor& mask,
                               const OptionalTensor& bias, const OptionalTensor& alibi_slopes,
                               const OptionalTensor& sinks, const OptionalTensor& cu_seqlens_q,
                               const OptionalTensor& cu_seqlens_k, const OptionalTensor& seed,
                               double scale, double softcap, double dropout_p, bool is_causal,
                               int64_t window_left, int64_t window_right, int64_t needs) {
  check(!(needs & kBias) || bias, "grad_bias is wanted, but there is no bias");
  check(!(needs & kSlopes) || alibi_slopes,
        "grad_alibi_slopes is wanted, but there are no alibi_slopes");
  const AttentionArguments arguments(
      query, key, value,
      {mask, bias, alibi_slopes, sinks, cu_seqlens_q, cu_seqlens_k, seed, scale, softcap, dropout_p,
       is_causal, window_left, window_right});
  const Gradients found = gradients(arguments, {grad_output, output, lse, grad_lse}, bias, needs);
  const auto given = [&](int i) { return found[i] ? *found[i] : empty({0}, arguments.dtype); };
  return {given(0), given(1), given(2), given(3), given(4)};
}

std::tuple<Tensor, Tensor, Tensor> attention_dense_backward(
    const Tensor& grad_output, const Tensor& query, const Tensor& key, const Tensor& value,
    const OptionalTensor& output, const OptionalTensor& lse, const OptionalTensor& attn_mask,
    std::optional<double> scale, bool is_causal, int64_t needs) {
  const AttentionOptions options = dense_options(query, attn_mask, scale, is_causal);
  check((needs & ~(kQuery | kKey | kValue)) == 0, "needs asks for more than three gradients");
  const AttentionArguments arguments(query, key, value, options);
  const Gradients found =
      gradients(arguments, {grad_output, output, lse, std::nullopt}, options.bias, needs);
  const auto given = [&](int i) { return found[i] ? *found[i] : empty({0}, arguments.dtype); };
  return {given(0), given(1), given(2)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(seqkern, CPU, m) {
  m.impl("attention_backward", TORCH_BOX(&attention_backward));
  m.impl("attention_dense_backward", TORCH_BOX(&attention_dense_backward));
}

}  // namespace seqkern
