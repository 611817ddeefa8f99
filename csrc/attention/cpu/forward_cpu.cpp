// The operator attention_forward on the CPU.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "attention/cpu/arguments_cpu.h"
#include "attention/cpu/decode_cpu.h"
#include "attention/cpu/kernels.h"
#include "attention/cpu/schedule.h"

namespace seqkern {
namespace {

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
  const Problem& p = arguments.problem;
  const Tensor output = arguments.result_like(arguments.query, p.value_dim);
  const Tensor lse = empty(arguments.lse_shape(), arguments.compute_dtype);
  ForwardCall call{p, arguments.rows(output), lse.mutable_data_ptr(),
                   p.packed() ? 0 : p.heads * p.queries,
                   p.packed() ? arguments.query_rows : p.queries};
  if (decodes(p)) {
    decode(call, arguments.storage);
    return {output, lse};
  }
  const AttentionKernels& kernels = attention_kernels(arguments.storage);
  run_units(kernels.forward, call, p.batch * p.kv_heads, arguments.work(), kernels.forward_shared,
            kernels.forward_own);
  return {output, lse};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(seqkern, CPU, m) {
  m.impl("attention_forward", TORCH_BOX(&attention_forward));
}

}  // namespace seqkern
