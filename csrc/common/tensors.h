// Small helpers over the stable ABI's tensors, for code that is compiled once (not per ISA level).
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
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

inline Shape shape_of(const Tensor& t) {
  const auto sizes = t.sizes();
  return Shape(sizes.begin(), sizes.end());
}

// A tensor's shape as a part of a message: read only where the message is needed.
struct ShapeText {
  const Tensor& tensor;
};

inline ShapeText shape_text(const Tensor& t) {
  return {t};
}

inline std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  out << "(";
  for (size_t i = 0; i < shape.size(); ++i) out << (i ? ", " : "") << shape[i];
  return out << (shape.size() == 1 ? ",)" : ")");
}

inline std::ostream& operator<<(std::ostream& out, const ShapeText& text) {
  return out << shape_of(text.tensor);
}

// Parts are put into words only where the condition does not hold.
template <class... Parts>
void check(bool condition, const Parts&... parts) {
  if (condition) return;
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

inline void check_shape(const char* name, const Tensor& t,
                        std::initializer_list<int64_t> expected) {
  const auto sizes = t.sizes();
  const bool same =
      sizes.size() == expected.size() && std::equal(sizes.begin(), sizes.end(), expected.begin());
  if (!same)
    check(false, name, " should have the shape ", Shape(expected), ", but it has the shape ",
          shape_text(t));
}

inline void check_shape(const char* name, const Tensor& t, const Shape& expected) {
  if (shape_of(t) != expected)
    check(false, name, " should have the shape ", expected, ", but it has the shape ",
          shape_text(t));
}

// The kernels' name of a dtype; an error that names the argument for other dtypes.
Storage storage_of(const char* argument, ScalarType dtype);

// A contiguous CPU tensor of undefined values.
Tensor empty(const int64_t* sizes, size_t dimensions, ScalarType dtype);
inline Tensor empty(const Shape& shape, ScalarType dtype) {
  return empty(shape.data(), shape.size(), dtype);
}
inline Tensor empty(std::initializer_list<int64_t> shape, ScalarType dtype) {
  return empty(shape.begin(), shape.size(), dtype);
}

inline Tensor as_contiguous(const Tensor& t) {
  return t.is_contiguous() ? t : torch::stable::contiguous(t);
}

inline OptionalTensor as_contiguous(const OptionalTensor& t) {
  return t ? OptionalTensor(as_contiguous(*t)) : t;
}

inline const void* data(const OptionalTensor& t) {
  return t ? t->const_data_ptr() : nullptr;
}

// Sizes and strides over the memory of t, from t's element `offset` on.
inline Tensor view(const Tensor& t, int64_t dimensions, const int64_t* sizes,
                   const int64_t* strides, int64_t offset = 0) {
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch__reinterpret_tensor(t.get(), dimensions, sizes, strides, offset, &handle));
  return Tensor(handle);
}

// A matrix over the memory of t: `rows` x `columns` from t's element `offset` on.
inline Tensor matrix(const Tensor& t, int64_t rows, int64_t columns, int64_t row_stride,
                     int64_t column_stride, int64_t offset = 0) {
  const int64_t sizes[] = {rows, columns}, strides[] = {row_stride, column_stride};
  return view(t, 2, sizes, strides, offset);
}

}  // namespace seqkern
