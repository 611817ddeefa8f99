// The pointwise maths of one GRU cell; see lstm.h for the conventions. Equations: Cho et al. 2014
// in PyTorch's variant, where the reset gate acts after the recurrent product: n = tanh(W_n x +
// b_in + r * q) with q = R_n h + b_hn.
#pragma once

#include "common/host_device.h"

namespace seqkern {

// Pre-activations in r, z and the input's part of n are replaced by the activated gates. Returns
// h_t.
template <class V>
SEQKERN_HOST_DEVICE V gru_cell(V& r, V& z, V& n, const V& q, const V& h_prev) {
  r = sigmoid(r);
  z = sigmoid(z);
  n = tanh_(n + r * q);
  return n + z * (h_prev - n);
}

// Takes the activated gates, q, h_{t-1} and dh. The gates and q are replaced by the gradients of
// the pre-activations (n: of the input's part, q: of the recurrent part) and dh by the part of
// h_{t-1}'s gradient that bypasses the recurrent product.
template <class V>
SEQKERN_HOST_DEVICE void gru_cell_backward(V& r, V& z, V& n, V& q, const V& h_prev, V& dh) {
  const V dn = dh * (1 - z) * (1 - n * n);
  const V dz = dh * (h_prev - n) * z * (1 - z);
  const V dr = dn * q * r * (1 - r);
  dh = dh * z;
  q = dn * r;
  n = dn;
  z = dz;
  r = dr;
}

}  // namespace seqkern
