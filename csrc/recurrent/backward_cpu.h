// The backward pass of a recurrent layer on the CPU, for every cell.
#pragma once

#include "recurrent/layer_cpu.h"

namespace seqkern {

// Which gradients the caller wants; the bits of the operators' argument `needs`.
enum Needs : int64_t {
  kNeedsInput = 1,
  kNeedsH0 = 2,
  kNeedsC0 = 4,
  kNeedsInputWeights = 8,
  kNeedsStateWeights = 16,
  kNeedsBiases = 32,
  kNeedsProjection = 64,
};

struct BackwardExtras {
  OptionalTensor grad_output, grad_h_n, grad_c_n, c0;
  Tensor output, gates, cells,
      hidden;  // as the forward pass saved them; what a cell does not have is ignored
  int64_t needs;
};

// Gradients that were not asked for have no elements. grad_b_hh is grad_b_ih itself except for the
// GRU.
struct BackwardResult {
  Tensor grad_input, grad_h0, grad_c0, grad_w_ih, grad_w_hh, grad_b_ih, grad_b_hh, grad_w_hr;
};

BackwardResult backward(const Layer& layer, const BackwardExtras& extras);

}  // namespace seqkern
