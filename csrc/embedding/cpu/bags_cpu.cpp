// The operators of subword bags on the CPU: vectors that are sums of table rows, and the gradient
// of the table.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>

#include "embedding/cpu/objective_cpu.h"

namespace seqkern {
namespace {

constexpr int64_t kBagsWorthAThread = 64;

// The tensors of a call, checked: every bag lies within `rows`, and what it holds within the table.
struct Bags {
  Tensor offsets, rows, words;
  int64_t entries = 0;  // of all bags of `words`

  Bags(const Tensor& weight, const Tensor& all_offsets, const Tensor& all_rows,
       const Tensor& some_words)
      : offsets(as_contiguous(all_offsets)),
        rows(as_contiguous(all_rows)),
        words(as_contiguous(some_words)) {
    check_table("weight", weight);
    check(offsets.scalar_type() == ScalarType::Long && offsets.dim() == 1 && offsets.numel() > 0,
          "offsets should be int64 numbers in 1 dimension, one more than bags");
    check(rows.scalar_type() == ScalarType::Int && rows.dim() == 1,
          "rows should be int32 numbers in 1 dimension");
    check(words.dim() == 1, "words should have 1 dimension, but has the shape ", shape_text(words));
    const int64_t bags = offsets.numel() - 1;
    check_indices("words", words, shape_of(words), bags, 0);
    check(bags > 0 || words.numel() == 0, "there are no bags");
    for (int64_t n = 0; n < words.numel(); ++n) {
      const int64_t first = start(n), end = first + length(n);
      check(first >= 0 && first <= end && end <= rows.numel(), "offsets should rise from 0 to ",
            rows.numel(), ", but a bag is [", first, ", ", end, ")");
      for (int64_t place = first; place < end; ++place)
        check(row(place) >= 0 && row(place) < weight.size(0), "rows holds ", row(place),
              ", which is not in [0, ", weight.size(0), ")");
      entries += end - first;
    }
  }

  int64_t count() const { return words.numel(); }
  int64_t start(int64_t n) const { return offsets_data()[word(n)]; }
  int64_t length(int64_t n) const { return offsets_data()[word(n) + 1] - start(n); }
  int32_t row(int64_t place) const { return rows_data()[place]; }
  const int64_t* words_data() const { return static_cast<const int64_t*>(words.const_data_ptr()); }
  const int64_t* offsets_data() const {
    return static_cast<const int64_t*>(offsets.const_data_ptr());
  }
  const int32_t* rows_data() const { return static_cast<const int32_t*>(rows.const_data_ptr()); }

 private:
  int64_t word(int64_t n) const { return words_data()[n]; }
};

Tensor embedding_bags(const Tensor& weight, const Tensor& offsets, const Tensor& rows,
                      const Tensor& words, bool mean) {
  const Bags bags(weight, offsets, rows, words);
  const Tensor out = empty({bags.count(), weight.size(1)}, weight.scalar_type());
  if (out.numel() == 0) return out;
  const auto kernel = objective_kernels(storage_of("weight", weight.scalar_type())).bags;
  torch::stable::parallel_for(0, bags.count(), kBagsWorthAThread, [&](int64_t begin, int64_t end) {
    kernel(weight.const_data_ptr(), weight.stride(0), weight.size(1), bags.words_data(),
           bags.offsets_data(), bags.rows_data(), mean, out.mutable_data_ptr(), begin, end);
  });
  return out;
}

// The entries of all bags: their rows, and which vector each belongs to.
struct Entries {
  std::vector<uint32_t> keys, owners;

  explicit Entries(const Bags& bags) {
    keys.reserve(static_cast<size_t>(bags.entries));
    owners.reserve(static_cast<size_t>(bags.entries));
    for (int64_t n = 0; n < bags.count(); ++n)
      for (int64_t place = bags.start(n); place < bags.start(n) + bags.length(n); ++place) {
        keys.push_back(static_cast<uint32_t>(bags.row(place)));
        owners.push_back(static_cast<uint32_t>(n));
      }
  }
  RowGroups groups(int64_t table_rows) const {
    return group_rows(keys.data(), static_cast<int64_t>(keys.size()), table_rows);
  }
};

RowSums sums_of(const Bags& bags, const Entries& entries, const Tensor& grad,
                const Tensor& weight) {
  check_shape("grad", grad, {bags.count(), weight.size(1)});
  check(grad.scalar_type() == compute_dtype(weight.scalar_type()) && grad.is_contiguous(),
        "grad should be contiguous, and float32 (float64 for a float64 weight)");
  RowSums sums{};
  sums.source = grad.const_data_ptr();
  sums.dim = weight.size(1);
  sums.owners = entries.owners.data();
  sums.scale = 1;
  return sums;
}

// grad: of each vector, divided by the number of its rows where it is their mean.
Tensor embedding_bags_backward(const Tensor& grad, const Tensor& weight, const Tensor& offsets,
                               const Tensor& rows, const Tensor& words) {
  const Bags bags(weight, offsets, rows, words);
  const Entries entries(bags);
  return dense_sums(sums_of(bags, entries, grad, weight), entries.groups(weight.size(0)),
                    weight.size(0), weight.scalar_type());
}

std::tuple<Tensor, Tensor> embedding_bags_backward_sparse(const Tensor& grad, const Tensor& weight,
                                                          const Tensor& offsets, const Tensor& rows,
                                                          const Tensor& words) {
  const Bags bags(weight, offsets, rows, words);
  const Entries entries(bags);
  const SparseRows out = sparse_sums(sums_of(bags, entries, grad, weight),
                                     entries.groups(weight.size(0)), weight.scalar_type());
  return {out.rows, out.values};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(seqkern, CPU, m) {
  m.impl("embedding_bags", TORCH_BOX(&embedding_bags));
  m.impl("embedding_bags_backward", TORCH_BOX(&embedding_bags_backward));
  m.impl("embedding_bags_backward_sparse", TORCH_BOX(&embedding_bags_backward_sparse));
}

}  // namespace seqkern
