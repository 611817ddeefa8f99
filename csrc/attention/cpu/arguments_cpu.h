// The arguments of the attention operators, checked and as the kernels want them.
#pragma once

#include <vector>

#include "attention/cpu/problem.h"
#include "common/tensors.h"

namespace seqkern {

struct AttentionOptions {
  OptionalTensor mask, bias, alibi_slopes, sinks, cu_seqlens_q, cu_seqlens_k, seed;
  double scale, softcap, dropout_p;
  bool is_causal;
  int64_t window_left, window_right;
};

// Those of a dense call with nothing but a mask, as PyTorch's function takes it.
AttentionOptions dense_options(const Tensor& query, const OptionalTensor& attn_mask,
                               std::optional<double> scale, bool is_causal);

// A checked call, whatever the layout of its tensors. Keeps those that `problem` points into.
class CheckedCall {
 public:
  Problem problem{};
  ScalarType dtype, compute_dtype;
  Storage storage;
  int64_t query_rows = 0;  // of packed sequences: in all

  // Whether the backward can do without output and lse.
  bool small() const {
    return !problem.packed() && problem.queries <= kSmallSequence && problem.keys <= kSmallSequence;
  }

  // Multiplications of the two products of the forward.
  double work() const;

  // A new tensor for the log-sum-exp, (batch, heads, queries) or, for packed sequences, (heads,
  // rows); its strides; and one that the caller brings.
  Tensor empty_lse() const;
  int64_t lse_batch() const { return problem.packed() ? 0 : problem.heads * problem.queries; }
  int64_t lse_head() const { return problem.packed() ? query_rows : problem.queries; }
  Tensor checked_lse(const char* name, const Tensor& t) const;

 protected:
  explicit CheckedCall(ScalarType dtype);

  // Checks masks and bias against the problem's sizes, and takes them.
  void set_scores(const OptionalTensor& mask, const OptionalTensor& bias);
  void set_dropout(double probability, const OptionalTensor& seed);

  std::vector<Tensor> kept_;
};

// A checked call on tensors (batch, heads, positions, features) or, for packed sequences, (rows,
// heads, features).
class AttentionArguments : public CheckedCall {
 public:
  AttentionArguments(const Tensor& query, const Tensor& key, const Tensor& value,
                     const AttentionOptions& options);

  Tensor query, key, value;

  // A new tensor for results that belong to `like` (query, key or value), with `features` in the
  // last dimension. Where like's positions lie outside its heads in memory, so do the result's, so
  // that a model's transpose(1, 2) costs nothing in either direction.
  Tensor result_like(const Tensor& like, int64_t features) const;
  // Its rows.
  Rows rows(const Tensor& t) const;
  // t with the shape of the output, its last dimension contiguous.
  Tensor checked_output(const char* name, const Tensor& t) const;

 private:
  void set_packed(const AttentionOptions& options);
  void set_heads(const AttentionOptions& options);

  std::vector<int64_t> query_starts_, key_starts_;
};

// t, or a copy of it whose last dimension is contiguous, as the kernels read rows.
Tensor with_rows(const Tensor& t);

// A mask with dimensions of size 1 in front, to four.
Tensor four_dimensional(const Tensor& mask);

}  // namespace seqkern
