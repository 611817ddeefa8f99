// What the cells' maths (lstm.h, gru.h, rnn.h) wants of a number, beyond common/device.cuh.
#pragma once

#include "common/host_device.h"

namespace seqkern {

// Like their SIMD namesakes: a NaN goes through.
SEQKERN_HOST_DEVICE float relu(float x) {
  return x < 0 ? 0.0f : x;
}
SEQKERN_HOST_DEVICE float zero_where_not_positive(float value, float condition) {
  return condition <= 0 ? 0.0f : value;
}

}  // namespace seqkern
