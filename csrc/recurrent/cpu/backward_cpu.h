// The backward pass of a recurrent layer on the CPU, for every cell.
#pragma once

#include "recurrent/cpu/layer_cpu.h"

namespace seqkern {

BackwardResult backward(const Layer& layer, const BackwardExtras& extras);

}  // namespace seqkern
