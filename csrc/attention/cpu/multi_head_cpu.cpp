// The operators multi_head_attention_forward and multi_head_attention_backward on the CPU:
// attention between the projections of a multi-head attention module, on tensors as the projections
// make and take them.
#include <torch/csrc/stable/library.h>

#include <array>
#include <cmath>
#include <tuple>

#include "attention/cpu/backward_cpu.h"
#include "attention/cpu/forward_cpu.h"
#include "attention/cpu/schedule.h"

namespace seqkern {
namespace {

enum class WeightsWanted { kNone, kMean, kOfEachHead };

// The features of a projection: of one, two or three of query, key and value, one after the other,
// and in each the heads one after the other.
class MultiHead : public CheckedCall {
 public:
  struct Options {
    int64_t heads;
    bool batch_first;
    const OptionalTensor &mask, &bias, &seed;
    bool mask_excludes;
    double dropout_p;
    bool is_causal;
  };

  // Without key, query holds all three; without value, key holds both.
  MultiHead(const Tensor& query_, const OptionalTensor& key_, const OptionalTensor& value_,
            const Options& options)
      : CheckedCall(query_.scalar_type()),
        query(with_rows(query_)),
        batched_(query.dim() == 3),
        batch_first_(options.batch_first) {
    check(query.dim() == 2 || batched_, "query should have 2 or 3 dimensions, but its shape is ",
          shape_text(query));
    check(key_ || !value_, "value is given without key");
    if (key_) key = checked("key", *key_);
    if (value_) value = checked("value", *value_);
    query_parts_ = key ? 1 : 3;
    key_parts_ = value ? 1 : 2;
    const int64_t features = features_of(query, query_parts_);
    check(options.heads > 0 && features * query_parts_ == query.size(query.dim() - 1) &&
              features % options.heads == 0,
          "query's shape ", shape_text(query), " does not fit ", options.heads, " heads");
    const Tensor& keys = key ? *key : query;
    Problem& p = problem;
    p.heads = p.kv_heads = options.heads;
    p.dim = p.value_dim = features / options.heads;
    p.batch = batch_of(query);
    p.queries = length_of(query);
    p.keys = length_of(keys);
    for (const auto& [name, t, parts] :
         {std::tuple{"key", &key, key_parts_}, std::tuple{"value", &value, int64_t(1)}}) {
      if (!*t) continue;
      const Tensor& x = **t;
      check(batch_of(x) == p.batch && length_of(x) == p.keys &&
                x.size(x.dim() - 1) == parts * features,
            name, " has the shape ", shape_text(x), ", which does not fit query's ",
            shape_text(query));
    }
    p.query = part(query, 0);
    p.key = key ? part(*key, 0) : part(query, 1);
    p.value = value ? part(*value, 0) : key ? part(*key, 1) : part(query, 2);
    p.scale = p.dim > 0 ? std::pow(static_cast<double>(p.dim), -0.5) : 1.0;
    p.is_causal = options.is_causal;
    p.window_left = p.window_right = -1;
    OptionalTensor mask = options.mask;
    if (mask && mask->dim() == 2) mask = padding(*mask);
    set_scores(mask, options.bias);
    p.mask_excludes = options.mask_excludes;
    set_dropout(options.dropout_p, options.seed);
  }

  Tensor query;
  OptionalTensor key, value;

  // A new tensor laid out as t but contiguous, with so many features.
  Tensor like(const Tensor& t, int64_t features) const {
    if (!batched_) return empty({t.size(0), features}, dtype);
    return empty({t.size(0), t.size(1), features}, dtype);
  }
  int64_t features() const { return problem.heads * problem.dim; }

  // The rows of one of query, key and value in a tensor that holds several.
  Rows part(const Tensor& t, int64_t index) const {
    char* data = static_cast<char*>(const_cast<void*>(t.const_data_ptr()));
    data += index * features() * t.element_size();
    if (!batched_) return {data, 0, problem.dim, t.stride(0)};
    return {data, t.stride(batch_first_ ? 0 : 1), problem.dim, t.stride(batch_first_ ? 1 : 0)};
  }

  // An output or its gradient.
  Tensor checked_output(const char* name, const Tensor& t) const {
    const Tensor x = checked(name, t);
    check(batch_of(x) == problem.batch && length_of(x) == problem.queries &&
              x.size(x.dim() - 1) == features(),
          name, " has the shape ", shape_text(x), ", which does not fit query's ",
          shape_text(query));
    return x;
  }

 private:
  Tensor checked(const char* name, const Tensor& t) const {
    check(t.scalar_type() == dtype, name, " should have query's dtype");
    check(t.dim() == query.dim(), name, " should have query's dimensions, but its shape is ",
          shape_text(t));
    return with_rows(t);
  }
  static int64_t features_of(const Tensor& t, int64_t parts) { return t.size(t.dim() - 1) / parts; }
  int64_t batch_of(const Tensor& t) const { return batched_ ? t.size(batch_first_ ? 0 : 1) : 1; }
  int64_t length_of(const Tensor& t) const { return t.size(batched_ && batch_first_ ? 1 : 0); }

  // A mask (batch, keys) as one of the scores.
  static Tensor padding(const Tensor& mask) {
    const int64_t sizes[] = {mask.size(0), 1, 1, mask.size(1)};
    const int64_t strides[] = {mask.stride(0), 0, 0, mask.stride(1)};
    return view(mask, 4, sizes, strides);
  }

  bool batched_, batch_first_;
  int64_t query_parts_, key_parts_;
};

// How the pieces of a call with weights are cut: blocks of as many queries as their probabilities
// leave in the cache; and, for a mean, groups of heads where there would be too few pieces.
void cut(WeightsCall& call, int threads) {
  constexpr int64_t kMostTiles = 4, kKeysInCache = 2048;
  const Problem& p = call.forward.problem;
  const int64_t tiles = ceil_div(p.queries, kTileQueries), wanted = threads > 1 ? 2 * threads : 1;
  call.tiles = std::clamp<int64_t>(kKeysInCache / std::max<int64_t>(p.keys, 1), 1, kMostTiles);
  const int64_t others = p.batch * p.heads;
  while (call.tiles > 1 && others * ceil_div(tiles, call.tiles) < wanted) --call.tiles;
  call.blocks = ceil_div(tiles, call.tiles);
  const int64_t blocks = std::max<int64_t>(1, p.batch * call.blocks);
  call.groups = std::clamp<int64_t>(ceil_div(wanted, blocks), 1, p.heads);
}

void run_weights(const MultiHead& arguments, const ForwardCall& forward, void* weights, bool mean) {
  const Problem& p = arguments.problem;
  WeightsCall call{forward, weights, mean, 0, 0, 0, nullptr};
  const int threads = threads_for(arguments.work());
  cut(call, threads);
  const int64_t pieces = p.batch * call.blocks * call.groups;
  OptionalTensor sums;
  if (mean && call.groups > 1) {
    sums = empty({pieces, call.tiles * p.keys * kTileQueries}, arguments.compute_dtype);
    call.sums = sums->mutable_data_ptr();
  }
  const AttentionKernels& kernels = attention_kernels(arguments.storage);
  const int64_t own = kernels.weights_own(call);
  run_pieces(threads, pieces, own, kernels.forward_shared(p, 1),
             [&](int64_t i, const Place& place) { kernels.weights(call, i, place); });
  if (call.sums)
    run_pieces(threads, p.batch * call.blocks, own, 0,
               [&](int64_t i, const Place& place) { kernels.combine_weights(call, i, place); });
}

std::tuple<Tensor, OptionalTensor, OptionalTensor> multi_head_attention_forward(
    const Tensor& query, const OptionalTensor& key, const OptionalTensor& value, int64_t heads,
    bool batch_first, const OptionalTensor& mask, bool mask_excludes, const OptionalTensor& bias,
    const OptionalTensor& seed, double dropout_p, bool is_causal, int64_t weights) {
  const MultiHead arguments(
      query, key, value,
      {heads, batch_first, mask, bias, seed, mask_excludes, dropout_p, is_causal});
  const Problem& p = arguments.problem;
  const Tensor output = arguments.like(arguments.query, arguments.features());
  OptionalTensor lse, found;
  if (!arguments.small()) lse = arguments.empty_lse();
  const ForwardCall call{p, arguments.part(output, 0), lse ? lse->mutable_data_ptr() : nullptr,
                         arguments.lse_batch(), arguments.lse_head()};
  switch (static_cast<WeightsWanted>(weights)) {
    case WeightsWanted::kNone:
      run_forward(arguments, call);
      break;
    case WeightsWanted::kMean:
      found = empty({p.batch, p.queries, p.keys}, arguments.dtype);
      run_weights(arguments, call, found->mutable_data_ptr(), true);
      break;
    case WeightsWanted::kOfEachHead:
      found = empty({p.batch, p.heads, p.queries, p.keys}, arguments.dtype);
      run_weights(arguments, call, found->mutable_data_ptr(), false);
      break;
    default:
      check(false, "weights should be 0, 1 or 2, but it is ", weights);
  }
  return {output, lse, found};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> multi_head_attention_backward(
    const Tensor& grad_output, const Tensor& query, const OptionalTensor& key,
    const OptionalTensor& value, const OptionalTensor& output, const OptionalTensor& lse,
    int64_t heads, bool batch_first, const OptionalTensor& mask, bool mask_excludes,
    const OptionalTensor& bias, const OptionalTensor& seed, double dropout_p, bool is_causal,
    bool needs_bias) {
  const MultiHead arguments(
      query, key, value,
      {heads, batch_first, mask, bias, seed, mask_excludes, dropout_p, is_causal});
  const Problem& p = arguments.problem;
  const Tensor grad = arguments.checked_output("grad_output", grad_output);
  check(!needs_bias || bias, "grad_bias is wanted, but there is no bias");
  BackwardCall call{};
  call.problem = p;
  call.grad_output = arguments.part(grad, 0);
  call.lse_batch = arguments.lse_batch();
  call.lse_head = arguments.lse_head();
  OptionalTensor saved_output, saved_lse;
  if (lse) {
    check(output.has_value(), "lse is given without output");
    saved_output = arguments.checked_output("output", *output);
    saved_lse = arguments.checked_lse("lse", *lse);
    call.output = arguments.part(*saved_output, 0);
    call.lse = saved_lse->const_data_ptr();
  } else {
    check(arguments.small(), "output and lse may be missing only for small calls");
  }
  const auto gradient = [&](const Tensor& t) { return arguments.like(t, t.size(t.dim() - 1)); };
  const Tensor grad_query = gradient(arguments.query);
  OptionalTensor grad_key, grad_value, grad_bias;
  if (key) grad_key = gradient(*arguments.key);
  if (value) grad_value = gradient(*arguments.value);
  call.grad_query = arguments.part(grad_query, 0);
  call.grad_key = key ? arguments.part(*grad_key, 0) : arguments.part(grad_query, 1);
  call.grad_value = value ? arguments.part(*grad_value, 0)
                    : key ? arguments.part(*grad_key, 1)
                          : arguments.part(grad_query, 2);
  std::optional<BiasSums> bias_sums;
  if (needs_bias) {
    bias_sums.emplace(*bias, arguments);
    call.grad_bias = bias_sums->view;
  }
  run_backward(arguments, call);
  if (bias_sums) grad_bias = bias_sums->gradient(*bias);
  // All are tensors: vmap calls such operators once for each, and no others.
  const auto given = [&](const OptionalTensor& t) { return t ? *t : empty({0}, arguments.dtype); };
  return {grad_query, given(grad_key), given(grad_value), given(grad_bias)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(seqkern, CPU, m) {
  m.impl("multi_head_attention_forward", TORCH_BOX(&multi_head_attention_forward));
  m.impl("multi_head_attention_backward", TORCH_BOX(&multi_head_attention_backward));
}

}  // namespace seqkern
