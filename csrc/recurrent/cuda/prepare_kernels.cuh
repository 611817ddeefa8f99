// What stands around the loop over time and is no library product: its workspace, and the states
// that the gradient of the recurrent weights is a product with. Each moves a few bytes a thread, at
// the speed of memory.
#pragma once

#include "recurrent/cuda/loop.cuh"

namespace seqkern {

// Of one loop.
template <class S>
struct Preparation {
  S* exchange;     // (slots, batch, exchange_stride)
  const S* first;  // (batch, hidden) for all buffers, padded with zeros; or null for zeros
  uint32_t* arrived;
  // float32 sums of the biases, (gates, hidden); GRU: n's biases apart. Null: not wanted.
  float* bias;
  const S *b_ih, *b_hh;  // or null for zeros
};

// Of all loops of a layer.
template <class S>
struct Preparations {
  int tasks;
  int64_t batch, hidden, slots, exchange_stride, blocks, gates, summed_gates;
  Preparation<S> task[kMostTasks];
};

template <class S>
SEQKERN_DEVICE void prepare_task(const Preparations<S>& all_tasks, const Preparation<S>& p) {
  const int64_t threads = device::grid_threads(), hidden = all_tasks.hidden;
  const int64_t stride = all_tasks.exchange_stride, buffer = all_tasks.batch * stride;
  for (int64_t at = device::grid_thread(); at < buffer; at += threads) {
    const int64_t row = at / stride, column = at % stride;
    const float x =
        p.first && column < hidden ? device::load(p.first + row * hidden + column) : 0.0f;
    for (int64_t slot = 0; slot < all_tasks.slots; ++slot)
      device::store(p.exchange + slot * buffer + at, x);
  }
  for (int64_t at = device::grid_thread(); at < all_tasks.blocks; at += threads)
    device::write(p.arrived + at, uint32_t{0});
  if (!p.bias) return;
  const int64_t summed = all_tasks.summed_gates * hidden, all = all_tasks.gates * hidden;
  for (int64_t at = device::grid_thread(); at < summed; at += threads)
    device::store(p.bias + at,
                  p.b_ih ? device::load(p.b_ih + at) + device::load(p.b_hh + at) : 0.0f);
  // The GRU's n: the input's part, then the state's.
  for (int64_t at = summed + device::grid_thread(); at < all; at += threads) {
    device::store(p.bias + at, p.b_ih ? device::load(p.b_ih + at) : 0.0f);
    device::store(p.bias + at + all - summed, p.b_hh ? device::load(p.b_hh + at) : 0.0f);
  }
}

template <class S>
SEQKERN_KERNEL prepare_kernel(SEQKERN_CONSTANT Preparations<S> all_tasks) {
  for (int task = 0; task < all_tasks.tasks; ++task) prepare_task(all_tasks, all_tasks.task[task]);
}

// For each row of the (row, feature) tensors the state before its step. A block walks through
// steps.
template <class S>
SEQKERN_KERNEL states_before_kernel(LoopSteps steps, int64_t hidden, const S* output,
                                    int64_t output_stride, const S* h0, S* before) {
  for (int64_t step = device::block(); step < steps.count; step += device::blocks()) {
    const int64_t continuing = steps.alive(step - 1);
    const int64_t now = steps.offset(step) * hidden, earlier = steps.offset(step - 1);
    for (int64_t at = device::thread(); at < steps.alive(step) * hidden; at += device::threads()) {
      const int64_t row = at / hidden, unit = at % hidden;
      if (row < continuing)
        device::write(before + now + at,
                      device::read(output + (earlier + row) * output_stride + unit));
      else if (h0)
        device::write(before + now + at, device::read(h0 + at));
      else
        device::store(before + now + at, 0.0f);
    }
  }
}

}  // namespace seqkern
