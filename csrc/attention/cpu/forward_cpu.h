// The forward of a checked call, for the operators that differ in how their tensors are laid out.
#pragma once

#include "attention/cpu/arguments_cpu.h"
#include "attention/cpu/kernels.h"

namespace seqkern {

// Fills output and lse.
void run_forward(const CheckedCall& arguments, const ForwardCall& call);

}  // namespace seqkern
