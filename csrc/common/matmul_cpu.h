// Matrix products on the CPU: by torch's library, called below autograd and the dispatcher, or by
// kernels of ours where that library is slow.
#pragma once

#include "common/tensors.h"

namespace seqkern {

// out = a * b. out's rows are contiguous; a and b are contiguous along rows or columns.
void matmul_out(const Tensor& out, const Tensor& a, const Tensor& b);

// out += a * b
void matmul_add(const Tensor& out, const Tensor& a, const Tensor& b);

// b of several products: what can be done once for all of them is done once.
class RightFactor {
 public:
  explicit RightFactor(const Tensor& b) : b_(b) {}
  // out = a * b
  void multiply(const Tensor& out, const Tensor& a);
  // out += a * b
  void multiply_add(const Tensor& out, const Tensor& a);

 private:
  Tensor b_;
  OptionalTensor packed_;
};

}  // namespace seqkern
