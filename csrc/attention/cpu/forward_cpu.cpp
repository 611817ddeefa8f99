// The operators attention_forward and attention_dense_forward on the CPU.
#include "attention/cpu/forward_cpu.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "attention/cpu/decode_cpu.h"
#include "attention/cpu/kernels.h"
#include "attention/cpu/schedule.h"

namespace seqkern {

void run_forward(const CheckedCall& arguments, const ForwardCall& call) {
  const Problem& p = arguments.problem;
  if (decodes(p)) return decode(call, arguments.storage);
  const AttentionKernels& kernels = attention_kernels(arguments.storage);
  run_units(kernels.forward, call, p.batch * p.kv_heads, arguments.work(), kernels.forward_shared,
            kernels.forward_own);
}

namespace {

Tensor output_of(const AttentionArguments& arguments, const OptionalTensor& lse) {
  const Problem& p = arguments.problem;
  const Tensor output = arguments.result_like(arguments.query, p.value_dim);
  run_forward(arguments, {p, arguments.rows(output), lse ? lse->mutable_data_ptr() : nullptr,
                          arguments.lse_batch(), arguments.lse_head()});
  return output;
}

std::tuple<Tensor, Tensor> attention_forward(
    const Tensor& query, const Tensor& key, const Tensor& value, const OptionalTensor& mask,
    const OptionalTensor& bias, const OptionalTensor& alibi_slopes, const OptionalTensor& sinks,
    const OptionalTensor& cu_seqlens_q, const OptionalTensor& cu_seqlens_k,
    const OptionalTensor& seed, double scale, double softcap, double dropout_p, bool is_causal,
    int64_t window_left, int64_t window_right) {
  const AttentionArguments arguments(
      query, key, value,
      {mask, bias, alibi_slopes, sinks, cu_seqlens_q, cu_seqlens_k, seed, scale, softcap, dropout_p,
       is_causal, window_left, window_right});
  const Tensor lse = arguments.empty_lse();
  return {output_of(arguments, lse), lse};
}

std::tuple<Tensor, OptionalTensor> attention_dense_forward(const Tensor& query, const Tensor& key,
                                                           const Tensor& value,
                                                           const OptionalTensor& attn_mask,
                                                           std::optional<double> scale,
                                                           bool is_causal) {
  const AttentionArguments arguments(query, key, value,
                                     dense_options(query, attn_mask, scale, is_causal));
  const Problem& p = arguments.problem;
  check(p.heads == p.kv_heads, "key has ", p.kv_heads, " heads, query ", p.heads);
  OptionalTensor lse;
  if (!arguments.small()) lse = arguments.empty_lse();
  return {output_of(arguments, lse), lse};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(seqkern, CPU, m) {
  m.impl("attention_forward", TORCH_BOX(&attention_forward));
  m.impl("attention_dense_forward", TORCH_BOX(&attention_dense_forward));
}

}  // namespace seqkern
