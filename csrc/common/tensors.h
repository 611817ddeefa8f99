// Small helpers over the stable ABI's tensors, for code that is compiled once (not per ISA level).
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <vector>

#include "common/storage.h"

namespace seqkern {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Shape = std::vector<int64_t>;

template <class... Parts>
void check(bool condition, const Parts&... parts) {
  if (condition) return;
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

inline std::string text(const Shape& shape) {
  std::ostringstream out;
  out << "(";
  for (size_t i = 0; i < shape.size(); ++i) out << (i ? ", " : "") << shape[i];
  out << (shape.size() == 1 ? ",)" : ")");
  return out.str();
}

inline Shape shape_of(const Tensor& t) {
  const auto sizes = t.sizes();
  return Shape(sizes.begin(), sizes.end());
}

inline void check_shape(const char* name, const Tensor& t, const Shape& expected) {
  const Shape actual = shape_of(t);
  if (actual != expected)
    check(false, name, " should have the shape ", text(expected), ", but it has the shape ",
          text(actual));
}

// The kernels' name of a dtype; an error that names the argument for other dtypes.
Storage storage_of(const char* argument, ScalarType dtype);

// A contiguous CPU tensor of undefined values.
Tensor empty(const Shape& shape, ScalarType dtype);

inline Tensor as_contiguous(const Tensor& t) {
  return t.is_contiguous() ? t : torch::stable::contiguous(t);
}

inline OptionalTensor as_contiguous(const OptionalTensor& t) {
  return t ? OptionalTensor(as_contiguous(*t)) : t;
}

inline const void* data(const OptionalTensor& t) {
  return t ? t->const_data_ptr() : nullptr;
}

// A matrix over the memory of t: `rows` x `columns` from t's element `offset` on.
inline Tensor matrix(const Tensor& t, int64_t rows, int64_t columns, int64_t row_stride,
                     int64_t column_stride, int64_t offset = 0) {
  const int64_t sizes[] = {rows, columns}, strides[] = {row_stride, column_stride};
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch__reinterpret_tensor(t.get(), 2, sizes, strides, offset, &handle));
  return Tensor(handle);
}

}  // namespace seqkern
