#include "common/tensors.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace seqkern {

namespace {

// Large tensors come straight from the operating system, page by page; with huge pages that takes a
// tenth of the time and the translation caches reach further. Where the system has none, nothing
// changes.
void advise_huge_pages(void* data, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kHugePage = uintptr_t(2) << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) & ~(kHugePage - 1);
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) & ~(kHugePage - 1);
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace

Tensor empty(const int64_t* sizes, size_t dimensions, ScalarType dtype) {
  constexpr size_t kMostDimensions = 8;
  check(dimensions <= kMostDimensions, "a tensor of ", dimensions, " dimensions");
  int64_t strides[kMostDimensions], stride = 1;
  for (size_t i = dimensions; i-- > 0;) {
    strides[i] = stride;
    stride *= sizes[i] > 0 ? sizes[i] : 1;
  }
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      static_cast<int64_t>(dimensions), sizes, strides,
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)),
      aoti_torch_device_type_cpu(), 0, &handle));
  const Tensor tensor(handle);
  constexpr size_t kLarge = size_t(4) << 20;
  const size_t bytes = static_cast<size_t>(tensor.numel()) * tensor.element_size();
  if (bytes >= kLarge) advise_huge_pages(tensor.mutable_data_ptr(), bytes);
  return tensor;
}

Storage storage_of(const char* name, ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float:
      return Storage::kFloat;
    case ScalarType::Double:
      return Storage::kDouble;
    case ScalarType::BFloat16:
      return Storage::kBfloat16;
    default:
      break;
  }
  check(false, name, " should be float32, float64 or bfloat16");
  return Storage::kFloat;
}

}  // namespace seqkern
