#include "attention/cpu/arguments_cpu.h"

#include <algorithm>
#include <cmath>

namespace seqkern {

Tensor with_rows(const Tensor& t) {
  const bool contiguous = t.dim() > 0 && (t.size(t.dim() - 1) <= 1 || t.stride(t.dim() - 1) == 1);
  return contiguous ? t : torch::stable::contiguous(t);
}

namespace {

std::vector<int64_t> starts(const char* name, const Tensor& cu_seqlens, int64_t rows) {
  const Tensor t = as_contiguous(cu_seqlens);
  check(t.dim() == 1 && t.numel() >= 1, name, " should have the shape (sequences + 1,), but it is ",
        shape_text(t));
  const ScalarType type = t.scalar_type();
  check(type == ScalarType::Int || type == ScalarType::Long, name, " should be int32 or int64");
  std::vector<int64_t> result(static_cast<size_t>(t.numel()));
  for (size_t i = 0; i < result.size(); ++i)
    result[i] = type == ScalarType::Int ? static_cast<const int32_t*>(t.const_data_ptr())[i]
                                        : static_cast<const int64_t*>(t.const_data_ptr())[i];
  check(result[0] == 0, name, " should begin with 0, but it begins with ", result[0]);
  for (size_t i = 1; i < result.size(); ++i)
    check(result[i] >= result[i - 1], name, " should not decrease, but element ", i, " is ",
          result[i], " after ", result[i - 1]);
  check(result.back() == rows, name, " should end with the number of rows, ", rows,
        ", but it ends with ", result.back());
  return result;
}

int64_t longest(const std::vector<int64_t>& starts) {
  int64_t most = 0;
  for (size_t i = 1; i < starts.size(); ++i) most = std::max(most, starts[i] - starts[i - 1]);
  return most;
}

}  // namespace

Tensor four_dimensional(const Tensor& mask) {
  const int64_t dims = mask.dim();
  check(dims <= 4, "attn_mask should have at most 4 dimensions, but its shape is ",
        shape_text(mask));
  if (dims == 4) return mask;
  int64_t sizes[4] = {1, 1, 1, 1}, strides[4] = {0, 0, 0, 0};
  for (int64_t i = 0; i < dims; ++i) {
    sizes[4 - dims + i] = mask.size(i);
    strides[4 - dims + i] = mask.stride(i);
  }
  return view(mask, 4, sizes, strides);
}

AttentionOptions dense_options(const Tensor& query, const OptionalTensor& attn_mask,
                               std::optional<double> scale, bool is_causal) {
  AttentionOptions options{};
  if (attn_mask) {
    const bool boolean = attn_mask->scalar_type() == ScalarType::Bool;
    (boolean ? options.mask : options.bias) = four_dimensional(*attn_mask);
  }
  const int64_t dim = query.dim() > 0 ? query.size(query.dim() - 1) : 0;
  options.scale = scale ? *scale : dim > 0 ? std::pow(static_cast<double>(dim), -0.5) : 1.0;
  options.is_causal = is_causal;
  options.window_left = options.window_right = -1;
  return options;
}

CheckedCall::CheckedCall(ScalarType type)
    : dtype(type),
      compute_dtype(type == ScalarType::Double ? ScalarType::Double : ScalarType::Float),
      storage(storage_of("query", type)) {}

AttentionArguments::AttentionArguments(const Tensor& query_, const Tensor& key_,
                                       const Tensor& value_, const AttentionOptions& options)
    : CheckedCall(query_.scalar_type()),
      query(with_rows(query_)),
      key(with_rows(key_)),
      value(with_rows(value_)) {
  check(options.cu_seqlens_q.has_value() == options.cu_seqlens_k.has_value(),
        "cu_seqlens_q and cu_seqlens_k should both be given or both be missing");
  const bool packed = options.cu_seqlens_q.has_value();
  const int64_t dims = packed ? 3 : 4;
  for (const auto& [name, t] :
       {std::pair{"query", &query}, std::pair{"key", &key}, std::pair{"value", &value}}) {
    check(t->dim() == dims, name, " should have ", dims, " dimensions, but its shape is ",
          shape_text(*t));
    check(t->scalar_type() == dtype, name, " should have query's dtype");
  }
  Problem& p = problem;
  if (packed) {
    set_packed(options);
  } else {
    p.batch = query.size(0);
    p.heads = query.size(1);
    p.kv_heads = key.size(1);
    p.queries = query.size(2);
    p.keys = key.size(2);
    query_rows = p.queries;
  }
  p.dim = query.size(dims - 1);
  p.value_dim = value.size(dims - 1);
  check(p.kv_heads > 0 ? p.heads % p.kv_heads == 0 : p.heads == 0, "key has ", p.kv_heads,
        " heads, which do not divide query's ", p.heads);
  if (packed) {
    check_shape("key", key, {key.size(0), p.kv_heads, p.dim});
    check_shape("value", value, {key.size(0), p.kv_heads, p.value_dim});
  } else {
    check_shape("key", key, {p.batch, p.kv_heads, p.keys, p.dim});
    check_shape("value", value, {p.batch, p.kv_heads, p.keys, p.value_dim});
  }
  p.query = rows(query);
  p.key = rows(key);
  p.value = rows(value);
  p.scale = options.scale;
  p.softcap = options.softcap;
  p.is_causal = options.is_causal;
  p.window_left = options.window_left;
  p.window_right = options.window_right;
  set_scores(options.mask, options.bias);
  set_heads(options);
  set_dropout(options.dropout_p, options.seed);
}

void AttentionArguments::set_packed(const AttentionOptions& options) {
  Problem& p = problem;
  query_rows = query.size(0);
  query_starts_ = starts("cu_seqlens_q", *options.cu_seqlens_q, query_rows);
  key_starts_ = starts("cu_seqlens_k", *options.cu_seqlens_k, key.size(0));
  check(query_starts_.size() == key_starts_.size(), "cu_seqlens_q has ", query_starts_.size(),
        " elements and cu_seqlens_k ", key_starts_.size(), ", but they should have as many");
  check(!options.mask && !options.bias, "packed sequences take neither mask nor bias");
  p.batch = static_cast<int64_t>(query_starts_.size()) - 1;
  p.heads = query.size(1);
  p.kv_heads = key.size(1);
  p.queries = longest(query_starts_);
  p.keys = longest(key_starts_);
  p.query_starts = query_starts_.data();
  p.key_starts = key_starts_.data();
}

void CheckedCall::set_scores(const OptionalTensor& mask, const OptionalTensor& bias) {
  const Problem& p = problem;
  const int64_t full[4] = {p.batch, p.heads, p.queries, p.keys};
  const auto scores = [&](const char* name, const Tensor& t) {
    check(t.dim() == 4, name, " should have 4 dimensions, but its shape is ", shape_text(t));
    int64_t stride[4];
    for (int i = 0; i < 4; ++i) {
      check(t.size(i) == full[i] || t.size(i) == 1, name, " should have 1 or ", full[i],
            " in dimension ", i, ", but its shape is ", shape_text(t));
      stride[i] = t.size(i) == 1 ? 0 : t.stride(i);
    }
    return Scores{t.const_data_ptr(), stride[0], stride[1], stride[2], stride[3]};
  };
  if (mask) {
    check(mask->scalar_type() == ScalarType::Bool, "mask should be boolean");
    problem.mask = scores("mask", *mask);
    kept_.push_back(*mask);
  }
  if (bias) {
    const ScalarType type = bias->scalar_type();
    check(type == dtype || type == ScalarType::Float, "bias should be float32 or query's dtype");
    problem.bias = scores("bias", *bias);
    problem.bias_is_float = type == ScalarType::Float;
    kept_.push_back(*bias);
  }
}

void AttentionArguments::set_heads(const AttentionOptions& options) {
  Problem& p = problem;
  if (options.alibi_slopes) {
    const Tensor slopes = as_contiguous(*options.alibi_slopes);
    check(slopes.scalar_type() == compute_dtype,
          "alibi_slopes should be float32, or float64 with float64 queries");
    const bool per_sequence = slopes.dim() == 2;
    check_shape("alibi_slopes", slopes, per_sequence ? Shape{p.batch, p.heads} : Shape{p.heads});
    kept_.push_back(slopes);
    p.slopes = slopes.const_data_ptr();
    p.slopes_batch = per_sequence ? p.heads : 0;
  }
  if (options.sinks) {
    const Tensor sinks = as_contiguous(*options.sinks);
    check(sinks.scalar_type() == compute_dtype,
          "sinks should be float32, or float64 with float64 queries");
    check_shape("sinks", sinks, {p.heads});
    kept_.push_back(sinks);
    p.sinks = sinks.const_data_ptr();
  }
}

void CheckedCall::set_dropout(double probability, const OptionalTensor& seed) {
  check(probability >= 0 && probability <= 1, "dropout_p should be between 0 and 1, but it is ",
        probability);
  Dropout& dropout = problem.dropout;
  dropout.probability = probability;
  if (probability == 0) return;
  check(seed && seed->scalar_type() == ScalarType::Long && seed->numel() == 1,
        "seed should be one int64 number where dropout_p is not 0");
  const uint64_t bits = *static_cast<const uint64_t*>(seed->const_data_ptr());
  dropout.key[0] = static_cast<uint32_t>(bits);
  dropout.key[1] = static_cast<uint32_t>(bits >> 32);
}

double CheckedCall::work() const {
  const Problem& p = problem;
  double pairs = double(p.batch) * p.queries * p.keys;
  if (p.packed()) {
    pairs = 0;
    for (int64_t b = 0; b < p.batch; ++b)
      pairs += double(extent_of(p, b).queries) * extent_of(p, b).keys;
  }
  return pairs * p.heads * (p.dim + p.value_dim);
}

Tensor CheckedCall::empty_lse() const {
  if (problem.packed()) return empty({problem.heads, query_rows}, compute_dtype);
  return empty({problem.batch, problem.heads, problem.queries}, compute_dtype);
}

Tensor AttentionArguments::result_like(const Tensor& like, int64_t features) const {
  if (problem.packed()) return empty({like.size(0), like.size(1), features}, dtype);
  if (like.stride(1) >= like.stride(2))
    return empty({like.size(0), like.size(1), like.size(2), features}, dtype);
  const Tensor t = empty({like.size(0), like.size(2), like.size(1), features}, dtype);
  return torch::stable::transpose(t, 1, 2);
}

Rows AttentionArguments::rows(const Tensor& t) const {
  // Nobody shares what a call allocates; and asked for as mutable, an operand that shares its
  // memory (the output that autograd has saved) would be copied.
  void* data = const_cast<void*>(t.const_data_ptr());
  if (problem.packed()) return {data, 0, t.stride(1), t.stride(0)};
  return {data, t.stride(0), t.stride(1), t.stride(2)};
}

Tensor AttentionArguments::checked_output(const char* name, const Tensor& t) const {
  const Problem& p = problem;
  check(t.scalar_type() == dtype, name, " should have query's dtype");
  if (p.packed())
    check_shape(name, t, {query_rows, p.heads, p.value_dim});
  else
    check_shape(name, t, {p.batch, p.heads, p.queries, p.value_dim});
  return with_rows(t);
}

Tensor CheckedCall::checked_lse(const char* name, const Tensor& t) const {
  check(t.scalar_type() == compute_dtype, name,
        " should be float32, or float64 with float64 queries");
  if (problem.packed())
    check_shape(name, t, {problem.heads, query_rows});
  else
    check_shape(name, t, {problem.batch, problem.heads, problem.queries});
  return as_contiguous(t);
}

}  // namespace seqkern
