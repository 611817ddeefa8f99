// The backward of a checked call, for the operators that differ in how their tensors are laid out.
#pragma once

#include "attention/cpu/arguments_cpu.h"
#include "attention/cpu/kernels.h"

namespace seqkern {

// Which gradients are wanted: the bits of an operator's argument `needs`.
enum AttentionNeeds { kQuery = 1, kKey = 2, kValue = 4, kBias = 8, kSlopes = 16 };

Tensor zeros(const Shape& shape, ScalarType dtype);

// The sums of bias's gradient while they grow: like bias, but where its last two dimensions are
// both broadcast, with a whole last one. Members of a team that work at the same time on different
// queries and different keys then never meet in one element.
struct BiasSums {
  Tensor sums;
  Scores view{};

  BiasSums(const Tensor& bias, const CheckedCall& arguments);

  // Of the bias, in its shape and dtype.
  Tensor gradient(const Tensor& bias) const;
};

// Fills the gradients that `call` points to. Sets its unit_batch and unit_heads.
void run_backward(const CheckedCall& arguments, BackwardCall& call);

}  // namespace seqkern
