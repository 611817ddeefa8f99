// The operator sparse_adam_ on the CPU: one step for the rows that have a gradient, in one pass.
#include <torch/csrc/stable/library.h>

#include "embedding/cpu/objective_cpu.h"

namespace seqkern {
namespace {

constexpr int64_t kNumbersWorthAThread = 16 << 10;

// rows: rising, each at most once. step_size: lr * sqrt(1 - beta2^t) / (1 - beta1^t).
void sparse_adam_(const Tensor& weight, const Tensor& exp_avg, const Tensor& exp_avg_sq,
                  const Tensor& rows, const Tensor& values, double beta1, double beta2, double eps,
                  double step_size) {
  const std::pair<const char*, const Tensor&> tables[] = {
      {"weight", weight}, {"exp_avg", exp_avg}, {"exp_avg_sq", exp_avg_sq}};
  for (const auto& [name, table] : tables) {
    check(table.dim() == 2 && table.is_contiguous(), name,
          " should be contiguous and have 2 dimensions, but it has the shape ", shape_text(table));
    check_shape(name, table, shape_of(weight));
    check(table.scalar_type() == weight.scalar_type(), name, " should have the dtype of weight");
  }
  check(values.is_contiguous() && values.scalar_type() == weight.scalar_type(),
        "values should be contiguous and have the dtype of weight");
  check_shape("values", values, {rows.numel(), weight.size(1)});
  check_indices("rows", rows, {rows.numel()}, weight.size(0), 0);
  const int64_t* numbers = static_cast<const int64_t*>(rows.const_data_ptr());
  for (int64_t i = 1; i < rows.numel(); ++i)
    check(numbers[i - 1] < numbers[i], "rows should rise, but ", numbers[i], " follows ",
          numbers[i - 1]);
  if (values.numel() == 0) return;

  AdamCall call{weight.mutable_data_ptr(),
                exp_avg.mutable_data_ptr(),
                exp_avg_sq.mutable_data_ptr(),
                values.const_data_ptr(),
                numbers,
                weight.size(1),
                beta1,
                beta2,
                eps,
                step_size};
  const auto kernel = objective_kernels(storage_of("weight", weight.scalar_type())).adam;
  const int64_t grain = 1 + kNumbersWorthAThread / weight.size(1);
  torch::stable::parallel_for(0, rows.numel(), grain,
                              [&](int64_t begin, int64_t end) { kernel(call, begin, end); });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(seqkern, CPU, m) {
  m.impl("sparse_adam_", TORCH_BOX(&sparse_adam_));
}

}  // namespace seqkern
