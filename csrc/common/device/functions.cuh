// For the cells' maths (recurrent/*.h), which is written for SIMD vectors and plain numbers alike.
#pragma once

#include <cmath>

#include "common/host_device.h"

namespace seqkern {

SEQKERN_HOST_DEVICE float sigmoid(float x) {
  return 1 / (1 + expf(-x));
}
SEQKERN_HOST_DEVICE double sigmoid(double x) {
  return 1 / (1 + exp(-x));
}
SEQKERN_HOST_DEVICE float tanh_(float x) {
  return tanhf(x);
}
SEQKERN_HOST_DEVICE double tanh_(double x) {
  return tanh(x);
}

}  // namespace seqkern
