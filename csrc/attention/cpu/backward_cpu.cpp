// The operator attention_backward on the CPU.
#include <torch/csrc/stable/library.h>

#include <cstring>
#include <tuple>

#include "attention/cpu/arguments_cpu.h"
#include "attention/cpu/kernels.h"
#include "attention/cpu/schedule.h"

namespace seqkern {
namespace {

using FiveTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

enum Needs { kQuery = 1, kKey = 2, kValue = 4, kBias = 8, kSlopes = 16 };

Tensor zeros(const Shape& shape, ScalarType dtype) {
  const Tensor t = empty(shape, dtype);
  if (t.numel()) std::memset(t.mutable_data_ptr(), 0, t.numel() * t.element_size());
  return t;
}

// The sums of bias's gradient while they grow: like bias, but where its last two dimensions are
// both broadcast, with a whole last one. Members of a team that work at the same time on different
// queries and different keys then never meet in one element.
struct BiasSums {
  Tensor sums;
  Scores view{};

  BiasSums(const Tensor& bias, const AttentionArguments& arguments)
      : sums(zeros({bias.size(0), bias.size(1), bias.size(2),
                    bias.size(2) == 1 ? arguments.problem.keys : bias.size(3)},
                   arguments.compute_dtype)) {
    const auto stride = [&](int i) { return sums.size(i) == 1 ? 0 : sums.stride(i); };
    view = {sums.const_data_ptr(), stride(0), stride(1), stride(2), stride(3)};
  }

  Tensor gradient(const Tensor& bias) const {
    Tensor result = sums;
    if (bias.size(3) != sums.size(3)) {
      const int64_t last[] = {3};
      result = torch::stable::sum(sums, last, true);
    }
    return torch::stable::to(result, bias.scalar_type());
  }
};

FiveTensors attention_backward(const Tensor& grad_output, const OptionalTensor& grad_lse,
                               const Tensor& query, const Tensor& key, const Tensor& value,
                               const Tensor& output, const Tensor& lse, const OptionalTensor& mask,
                               const OptionalTensor& bias, const OptionalTensor& alibi_slopes,
                               const OptionalTensor& sinks, const OptionalTensor& cu_seqlens_q,
                               const OptionalTensor& cu_seqlens_k, const OptionalTensor& seed,
                               double scale, double softcap, double dropout_p, bool is_causal,
                               int64_t window_left, int64_t window_right, int64_t needs) {
  const AttentionArguments arguments(
      query, key, value,
      {mask, bias, alibi_slopes, sinks, cu_seqlens_q, cu_seqlens_k, seed, scale, softcap, dropout_p,
       is_causal, window_left, window_right});
  const Problem& p = arguments.problem;
  const Tensor out = arguments.checked_output("output", output);
  const Tensor grad = arguments.checked_output("grad_output", grad_output);
  const Tensor saved_lse = arguments.checked_lse("lse", lse);
  OptionalTensor grad_of_lse;
  if (grad_lse) grad_of_lse = arguments.checked_lse("grad_lse", *grad_lse);
  check(!(needs & kBias) || bias, "grad_bias is wanted, but there is no bias");
  check(!(needs & kSlopes) || alibi_slopes,
        "grad_alibi_slopes is wanted, but there are no alibi_slopes");

  const auto nothing = [&] { return empty({0}, arguments.dtype); };
  const Tensor grad_query =
      needs & kQuery ? arguments.result_like(arguments.query, p.dim) : nothing();
  const Tensor grad_key = needs & kKey ? arguments.result_like(arguments.key, p.dim) : nothing();
  const Tensor grad_value =
      needs & kValue ? arguments.result_like(arguments.value, p.value_dim) : nothing();
  const Tensor grad_slopes =
      needs & kSlopes ? zeros({p.batch, p.heads}, arguments.compute_dtype) : nothing();
  std::optional<BiasSums> bias_sums;
  if (needs & kBias) bias_sums.emplace(*bias, arguments);

  BackwardCall call{};
  call.problem = p;
  call.output = arguments.rows(out);
  call.grad_output = arguments.rows(grad);
  call.lse = saved_lse.const_data_ptr();
  call.grad_lse = data(grad_of_lse);
  call.lse_batch = p.packed() ? 0 : p.heads * p.queries;
  call.lse_head = p.packed() ? arguments.query_rows : p.queries;
  if (needs & kQuery) call.grad_query = arguments.rows(grad_query);
  if (needs & kKey) call.grad_key = arguments.rows(grad_key);
  if (needs & kValue) call.grad_value = arguments.rows(grad_value);
  if (needs & kSlopes) call.grad_slopes = grad_slopes.mutable_data_ptr();
  call.unit_batch = call.unit_heads = 1;
  if (bias_sums) {
    call.grad_bias = bias_sums->view;
    if (bias_sums->view.batch == 0) call.unit_batch = p.batch;
    if (bias_sums->view.head == 0) call.unit_heads = p.kv_heads;
  }
  const AttentionKernels& kernels = attention_kernels(arguments.storage);
  const int64_t heads = p.batch * p.kv_heads;
  if (heads > 0)
    run_units(kernels.backward, call, heads / (call.unit_batch * call.unit_heads),
              2.5 * arguments.work(), kernels.backward_shared, kernels.backward_own);
  return {grad_query, grad_key, grad_value, bias_sums ? bias_sums->gradient(*bias) : nothing(),
          grad_slopes};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(seqkern, CPU, m) {
  m.impl("attention_backward", TORCH_BOX(&attention_backward));
}

}  // namespace seqkern
