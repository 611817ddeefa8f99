// The forward pass of a recurrent layer on the CPU, for every cell.
#pragma once

#include "recurrent/cpu/layer_cpu.h"

namespace seqkern {

ForwardResult forward(const Layer& layer, const ForwardExtras& extras);

}  // namespace seqkern
