#include "common/matmul_cpu.h"

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstring>

#include "common/matmul_kernels.h"

namespace seqkern {

namespace {

bool made_by_intel() {
#ifdef __x86_64__
  static const bool intel = [] {
    __builtin_cpu_init();
    return __builtin_cpu_is("intel") != 0;
  }();
  return intel;
#else
  return false;
#endif
}

// torch's library for float32 and float64 is MKL, which uses AVX-512 on Intel's processors only:
// on others it runs at half their speed. Everywhere else it is as fast as a product can be.
bool library_is_slow(ScalarType dtype) {
  if (dtype != ScalarType::Float && dtype != ScalarType::Double) return false;
  return !made_by_intel() && matmul_kernels(storage_of("a", dtype)).wide;
}

MatrixView view(const Tensor& t) {
  return {t.const_data_ptr(), t.size(0), t.size(1), t.stride(0), t.stride(1)};
}

// `kept`: b in the product's order, filled by the first call that gets it.
void multiply_by_kernels(const Tensor& out, const Tensor& a, const Tensor& b, bool add,
                         OptionalTensor* kept) {
  const MatmulKernels& kernels = matmul_kernels(storage_of("a", a.scalar_type()));
  MatmulArgs args{};
  args.a = view(a);
  args.b = view(b);
  args.out = out.mutable_data_ptr();
  args.out_stride = out.stride(0);
  args.add = add;
  args.keep = kept != nullptr;
  args.packed = kept && *kept;
  const int64_t bytes = kernels.packed_b_bytes(args.b.rows, args.b.columns, args.keep);
  const Tensor packed = args.packed ? **kept : empty({bytes}, ScalarType::Byte);
  if (kept) *kept = packed;
  args.packed_b = packed.mutable_data_ptr();

  // Entering a parallel region costs about as much as half a million multiply-adds.
  const int64_t work = args.a.rows * args.a.columns * args.b.columns;
  args.slots = static_cast<int>(
      std::max<int64_t>(1, std::min<int64_t>(torch::stable::get_num_threads(), work / 500000)));
  OptionalTensor packed_a;
  if (args.a.column_stride != 1) {
    packed_a = empty({kernels.packed_a_bytes * args.slots}, ScalarType::Byte);
    args.packed_a = packed_a->mutable_data_ptr();
  }
  Barrier barrier(args.slots);
  if (args.slots == 1) return kernels.run(args, 0, 1, barrier);
  torch::stable::parallel_for(0, args.slots, 1, [&](int64_t begin, int64_t end) {
    kernels.run(args, static_cast<int>(begin), static_cast<int>(end), barrier);
  });
}

void multiply(const Tensor& out, const Tensor& a, const Tensor& b, bool add, OptionalTensor* kept) {
  if (out.numel() > 0 && a.size(1) > 0 && library_is_slow(a.scalar_type()))
    return multiply_by_kernels(out, a, b, add, kept);
  const AtenTensorHandle to = out.get();
  TORCH_ERROR_CODE_CHECK(add ? aoti_torch_cpu_addmm_out(to, to, a.get(), b.get(), 1.0, 1.0)
                             : aoti_torch_cpu_mm_out(to, a.get(), b.get()));
}

// Our kernels by themselves, whatever the library is like.
Tensor matmul(const Tensor& a, const Tensor& b, const OptionalTensor& add) {
  check(a.dim() == 2 && b.dim() == 2, "a and b should have 2 dimensions, but they have ", a.dim(),
        " and ", b.dim());
  check(a.size(1) == b.size(0), "b should have as many rows as a has columns, ", a.size(1),
        ", but it has ", b.size(0));
  const ScalarType dtype = a.scalar_type();
  check(dtype == ScalarType::Float || dtype == ScalarType::Double,
        "a should be float32 or float64");
  check(b.scalar_type() == dtype && (!add || add->scalar_type() == dtype),
        "b and add should have the dtype of a");
  if (add) check_shape("add", *add, {a.size(0), b.size(1)});
  const auto with_runs = [](const Tensor& t) {
    return t.stride(0) == 1 || t.stride(1) == 1 ? t : torch::stable::contiguous(t);
  };
  const Tensor out = empty({a.size(0), b.size(1)}, dtype);
  const size_t bytes = static_cast<size_t>(out.numel()) * out.element_size();
  if (add && bytes)
    std::memcpy(out.mutable_data_ptr(), as_contiguous(*add).const_data_ptr(), bytes);
  else if (bytes && a.size(1) == 0)
    std::memset(out.mutable_data_ptr(), 0, bytes);
  if (bytes && a.size(1) > 0)
    multiply_by_kernels(out, with_runs(a), with_runs(b), add.has_value(), nullptr);
  return out;
}

}  // namespace

void matmul_out(const Tensor& out, const Tensor& a, const Tensor& b) {
  multiply(out, a, b, false, nullptr);
}

void matmul_add(const Tensor& out, const Tensor& a, const Tensor& b) {
  multiply(out, a, b, true, nullptr);
}

void RightFactor::multiply(const Tensor& out, const Tensor& a) {
  seqkern::multiply(out, a, b_, false, &packed_);
}

void RightFactor::multiply_add(const Tensor& out, const Tensor& a) {
  seqkern::multiply(out, a, b_, true, &packed_);
}

STABLE_TORCH_LIBRARY_IMPL(seqkern, CPU, m) {
  m.impl("matmul", TORCH_BOX(&matmul));
}

}  // namespace seqkern
