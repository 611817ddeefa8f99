// The operator attention_dropout_mask on the CPU: which attention weights dropout keeps.
#include <torch/csrc/stable/library.h>

#include "attention/cpu/kernels.h"
#include "common/tensors.h"

namespace seqkern {
namespace {

Tensor attention_dropout_mask(const Tensor& seed, double dropout_p, int64_t batch, int64_t heads,
                              int64_t queries, int64_t keys) {
  check(seed.scalar_type() == ScalarType::Long && seed.numel() == 1,
        "seed should be one int64 number");
  check(dropout_p >= 0 && dropout_p <= 1, "dropout_p should be between 0 and 1, but it is ",
        dropout_p);
  const Tensor keep = empty({batch, heads, queries, keys}, ScalarType::Bool);
  if (keep.numel() == 0) return keep;
  const uint64_t bits = *static_cast<const uint64_t*>(seed.const_data_ptr());
  const Dropout dropout{dropout_p,
                        {static_cast<uint32_t>(bits), static_cast<uint32_t>(bits >> 32)}};
  const auto mask = attention_kernels(Storage::kFloat).dropout_mask;
  uint8_t* out = static_cast<uint8_t*>(keep.mutable_data_ptr());
  torch::stable::parallel_for(0, batch * heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t head = begin; head < end; ++head)
      mask(dropout, static_cast<uint32_t>(head), queries, keys, out + head * queries * keys);
  });
  return keep;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(seqkern, CPU, m) {
  m.impl("attention_dropout_mask", TORCH_BOX(&attention_dropout_mask));
}

}  // namespace seqkern
