// The pointwise maths of one Elman cell (Elman 1990); see lstm.h for the conventions.
#pragma once

#include "common/host_device.h"

namespace seqkern {

template <bool kRelu, class V>
SEQKERN_HOST_DEVICE V rnn_cell(const V& pre_activation) {
  if constexpr (kRelu) {
    return relu(pre_activation);
  } else {
    return tanh_(pre_activation);
  }
}

// The gradient of the pre-activation from the cell's output h and its gradient dh.
template <bool kRelu, class V>
SEQKERN_HOST_DEVICE V rnn_cell_backward(const V& h, const V& dh) {
  if constexpr (kRelu) {
    return zero_where_not_positive(dh, h);
  } else {
    return dh * (1 - h * h);
  }
}

}  // namespace seqkern
