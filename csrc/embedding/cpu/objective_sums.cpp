// Row sums by several threads: each row is summed by one of them, in the order of its entries.
#include <algorithm>

#include "embedding/cpu/objective_cpu.h"

namespace seqkern {

namespace {

constexpr int64_t kNumbersWorthAThread = 32 << 10;

// Calls work(begin, end) with ranges of groups that cover all of them.
template <class Work>
void over_groups(const RowSums& sums, const RowGroups& groups, int64_t more_numbers,
                 const Work& work) {
  const int64_t numbers = static_cast<int64_t>(groups.entries.size()) * sums.dim + more_numbers;
  const int64_t parts = std::max<int64_t>(
      1, std::min<int64_t>(torch::stable::get_num_threads(), numbers / kNumbersWorthAThread));
  const auto range = [&](int64_t first, int64_t last) {
    work(groups.boundary(first, parts), groups.boundary(last, parts));
  };
  if (parts == 1)
    range(0, 1);
  else
    torch::stable::parallel_for(0, parts, 1, range);
}

void set_groups(RowSums& sums, const RowGroups& groups) {
  sums.entries = groups.entries.data();
  sums.starts = groups.starts.data();
  sums.rows = groups.rows.data();
}

}  // namespace

Tensor dense_sums(RowSums sums, const RowGroups& groups, int64_t table_rows, ScalarType dtype) {
  const Tensor out = empty({table_rows, sums.dim}, dtype);
  if (out.numel() == 0) return out;
  set_groups(sums, groups);
  sums.out = out.mutable_data_ptr();
  sums.out_stride = sums.dim;
  const auto kernel = objective_kernels(storage_of("weight", dtype)).sums_dense;
  if (groups.size() == 0) {
    kernel(sums, 0, 0, 0, table_rows);
    return out;
  }
  over_groups(sums, groups, out.numel(), [&](int64_t begin, int64_t end) {
    const int64_t first = begin == 0 ? 0 : groups.rows[static_cast<size_t>(begin)];
    const int64_t last = end == groups.size() ? table_rows : groups.rows[static_cast<size_t>(end)];
    if (begin < end) kernel(sums, begin, end, first, last);
  });
  return out;
}

SparseRows sparse_sums(RowSums sums, const RowGroups& groups, ScalarType dtype) {
  const SparseRows out{empty({groups.size()}, ScalarType::Long),
                       empty({groups.size(), sums.dim}, dtype)};
  std::copy(groups.rows.begin(), groups.rows.end(),
            static_cast<int64_t*>(out.rows.mutable_data_ptr()));
  set_groups(sums, groups);
  sums.out = out.values.mutable_data_ptr();
  sums.out_stride = sums.dim;
  const auto kernel = objective_kernels(storage_of("weight", dtype)).sums_compact;
  over_groups(sums, groups, 0, [&](int64_t begin, int64_t end) {
    if (begin < end) kernel(sums, begin, end);
  });
  return out;
}

void add_sums(RowSums sums, const RowGroups& groups, const Tensor& table) {
  set_groups(sums, groups);
  sums.out = table.mutable_data_ptr();
  sums.out_stride = table.stride(0);
  const auto kernel = objective_kernels(storage_of("weight", table.scalar_type())).sums_added;
  over_groups(sums, groups, 0, [&](int64_t begin, int64_t end) {
    if (begin < end) kernel(sums, begin, end);
  });
}

void check_table(const char* name, const Tensor& table) {
  check(table.dim() == 2, name,
        " should have 2 dimensions, (rows, features), but it has the shape ", shape_text(table));
  check(table.size(1) <= 1 || table.stride(1) == 1, name,
        " should have contiguous rows, but its stride along them is ", table.stride(1));
}

void check_indices(const char* name, const Tensor& indices, const Shape& shape, int64_t limit,
                   int64_t also) {
  check(indices.scalar_type() == ScalarType::Long, name, " should be int64");
  check(indices.is_contiguous(), name, " should be contiguous");
  check_shape(name, indices, shape);
  const int64_t* values = static_cast<const int64_t*>(indices.const_data_ptr());
  const int64_t count = indices.numel();
  for (int64_t i = 0; i < count; ++i)
    check((values[i] >= 0 && values[i] < limit) || values[i] == also, name, " holds the index ",
          values[i], ", which is not in [0, ", limit, ")");
}

}  // namespace seqkern
