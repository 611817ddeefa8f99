// CUDA kernels of the LSTM over raw pointers; see common/device.cuh for what they may use.
#pragma once

#include <cstdint>

#include "common/device.cuh"
#include "recurrent/lstm.h"  // after device.cuh, which declares the sigmoid and tanh_ that it calls

namespace seqkern {

// gates: pre-activations (batch, 4 * hidden) in i, f, g, o; c, h, c_new: (batch, hidden).
template <class S>
SEQKERN_KERNEL lstm_pointwise_kernel(const S* gates, const S* c, S* h, S* c_new, int64_t batch,
                                     int64_t hidden) {
  const int64_t count = batch * hidden;
  for (int64_t at = device::grid_thread(); at < count; at += device::grid_threads()) {
    const int64_t row = at / hidden;
    const S* unit = gates + row * 4 * hidden + at % hidden;
    auto i = device::load(unit);
    auto f = device::load(unit + hidden);
    auto g = device::load(unit + 2 * hidden);
    auto o = device::load(unit + 3 * hidden);
    auto state = device::load(c + at);
    const auto output = lstm_cell(i, f, g, o, state);
    device::store(h + at, output);
    device::store(c_new + at, state);
  }
}

}  // namespace seqkern
