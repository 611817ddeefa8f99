// Division that rounds up, for the CPU and for CUDA.
#pragma once

#include "common/host_device.h"

namespace seqkern {

// n / d rounded up, for n > -d and d > 0.
template <class N, class D>
SEQKERN_HOST_DEVICE constexpr auto ceil_div(N n, D d) {
  return (n + d - 1) / d;
}

// The least multiple of `multiple` that n does not exceed.
template <class N, class M>
SEQKERN_HOST_DEVICE constexpr auto round_up(N n, M multiple) {
  return ceil_div(n, multiple) * multiple;
}

}  // namespace seqkern
