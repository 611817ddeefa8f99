// The pointwise maths of one LSTM cell, written once for every CPU vector width and for CUDA.
//
// V is the value type: one number in CUDA, a SIMD vector of numbers on the CPU. The arithmetic
// operators, sigmoid(V) and tanh_(V) must be visible for it. Equations: Hochreiter & Schmidhuber
// 1997 with the forget gate of Gers et al. 2000.
#pragma once

#include "common/host_device.h"

namespace seqkern {

// Pre-activations in i, f, g, o are replaced by the activated gates; c holds c_{t-1} and becomes
// c_t. Returns o * tanh(c).
template <class V>
SEQKERN_HOST_DEVICE V lstm_cell(V& i, V& f, V& g, V& o, V& c) {
  i = sigmoid(i);
  f = sigmoid(f);
  g = tanh_(g);
  o = sigmoid(o);
  c = f * c + i * g;
  return o * tanh_(c);
}

// Takes the activated gates, c_t, c_{t-1} and the gradients dh of the cell's output and dc of c_t.
// The gates are replaced by the gradients of their pre-activations and dc by the gradient of
// c_{t-1}.
template <class V>
SEQKERN_HOST_DEVICE void lstm_cell_backward(V& i, V& f, V& g, V& o, const V& c, const V& c_prev,
                                            const V& dh, V& dc) {
  const V tanh_c = tanh_(c);
  const V dc_t = dc + dh * o * (1 - tanh_c * tanh_c);
  const V di = dc_t * g * i * (1 - i);
  const V df = dc_t * c_prev * f * (1 - f);
  const V dg = dc_t * i * (1 - g * g);
  const V d_o = dh * tanh_c * o * (1 - o);
  dc = dc_t * f;
  i = di;
  f = df;
  g = dg;
  o = d_o;
}

}  // namespace seqkern
