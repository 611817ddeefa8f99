// The forward pass of a recurrent layer on the CPU, for every cell.
#pragma once

#include "recurrent/layer_cpu.h"

namespace seqkern {

struct ForwardExtras {
  OptionalTensor c0, b_ih, b_hh, packed;
  bool save;
};

// Tensors that a cell does not have, or that are not saved, have no elements.
struct ForwardResult {
  Tensor output, h_n, c_n, gates, cells, hidden;
};

ForwardResult forward(const Layer& layer, const ForwardExtras& extras);

}  // namespace seqkern
