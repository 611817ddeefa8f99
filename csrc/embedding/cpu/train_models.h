// How the models take their input rows from the table and give their steps back: skip-gram by row,
// CBOW by the sum over a window, both with words or with subword bags.
//
// What is done for whole rows is out of line, so that the loops of all models share it.
#pragma once

#include <type_traits>

#include "embedding/cpu/train_bags.h"
#include "embedding/cpu/train_hot_rows.h"

namespace seqkern {
namespace SEQKERN_ISA {

// Prefetches the rows of a window and of the words that come within its reach.
template <bool kBags, class S, class Rows>
inline void prefetch_window(const TrainCall& call, Rows& rows, const Batch& batch, int index,
                            int& prefetched) {
  const Window& w = batch.windows[index];
  rows.foresee(batch, index);
  for (int j = 0; j < w.targets; ++j)
    prefetch_row(rows.output(batch.targets[w.first_target + j]), call.dim);
  for (; prefetched < w.entered; ++prefetched) {
    const int32_t word = batch.words[prefetched];
    if constexpr (kBags) {
      for (int64_t r = call.bag_offsets[word]; r < call.bag_offsets[word + 1]; ++r)
        prefetch_row(row_of<S>(call.input, call.bag_rows[r]), call.dim);
    } else {
      prefetch_row(rows.input(word), call.dim);
    }
  }
}

// One CBOW window: its contexts `rows` (words, or composites of bags) are added up; `places` are
// theirs in the ring.
template <bool kBags, class A, class B>
__attribute__((noinline)) double update_cbow(const TrainCall& call, const Scratch& s,
                                             A* const* rows, int contexts, const int32_t* places,
                                             WindowRows<float, B>& window) {
  float count = static_cast<float>(contexts);
  if constexpr (kBags) {
    int64_t bags = 0;
    for (int i = 0; i < contexts; ++i) bags += bag_size(call, s.words[places[i]]);
    count = static_cast<float>(bags);
  }
  const float inverse = count > 0 ? 1.0f / count : 0.0f;
  const Vf scale(call.cbow_mean ? inverse : 1.0f);
  for_each_chunk(call.dim, [&](int64_t k, auto chunk) __attribute__((always_inline)) {
    Vf total(0.0f);
    for (int i = 0; i < contexts; ++i) total += chunk.load(rows[i] + k);
    chunk.store(s.mean + k, total * scale);
    chunk.store(s.step + k, Vf(0.0f));
  });
  float* mean = s.mean;
  float* step = s.step;
  window.a = &mean;
  window.contexts = 1;
  const double loss = add_window(window, &step, s.window);
  const float back = call.cbow_mean ? 1.0f : inverse;
  for (int i = 0; i < contexts; ++i) {
    float times = back;
    // A composite of CBOW is a sum, which moves by the steps of all its rows.
    if constexpr (kBags) times *= static_cast<float>(bag_size(call, s.words[places[i]]));
    add_to_row(rows[i], step, times, call.dim);
  }
  return loss;
}

// The step of a window whose rows have been looked up; returns its loss if it is wanted.
template <bool kCbow, bool kBags, class A, class B>
inline double make_step(const TrainCall& call, const Scratch& s, const Batch& batch,
                        const Window& w, A* const* inputs, B* const* outputs) {
  const float one = 1;
  WindowRows<std::conditional_t<kCbow, float, A>, B> window{};
  window.contexts = w.contexts;
  window.b = outputs;
  window.targets = w.targets;
  window.labels = batch.labels + w.first_target;
  if (w.weighted) {
    window.context_weights = kCbow ? &one : batch.context_weights + w.first_context;
    window.target_weights = batch.target_weights + w.first_target;
  }
  window.lr = w.lr;
  window.dim = call.dim;
  if constexpr (kCbow) {
    const int32_t* places = batch.contexts + w.first_context;
    return update_cbow<kBags>(call, s, inputs, w.contexts, places, window);
  } else {
    window.a = inputs;
    return update_window(window, s.window);
  }
}

template <class S, class Rows, bool kCbow, bool kBags>
double run_model(const TrainCall& call, const Batch& batch, char* memory) {
  using A = std::conditional_t<kBags, float, S>;
  const Scratch s = scratch_at(call, memory);
  Rows rows(call, s, batch);
  A** inputs = reinterpret_cast<A**>(s.input_rows);
  S** outputs = reinterpret_cast<S**>(s.output_rows);
  const int64_t mask = call.ring - 1;
  int entered = batch.entered, left = 0, prefetched = entered;
  double loss = 0;
  for (int i = -kAhead; i < batch.count; ++i) {
    if (i + kAhead < batch.count)
      prefetch_window<kBags, S>(call, rows, batch, i + kAhead, prefetched);
    if (i < 0) continue;
    const Window& w = batch.windows[i];
    rows.renew(i);
    if constexpr (kBags) {
      for (; left < w.left; ++left) leave<S>(call, s, (batch.first_word + left) & mask);
      for (; entered < w.entered; ++entered)
        enter<S>(call, s, batch.words[entered], (batch.first_word + entered) & mask);
    }
    const int32_t* contexts = batch.contexts + w.first_context;
    const int32_t* targets = batch.targets + w.first_target;
    for (int j = 0; j < w.contexts; ++j) {
      if constexpr (kBags)
        inputs[j] = composite_at(s, contexts[j]).row;
      else
        inputs[j] = rows.input(contexts[j]);
    }
    for (int j = 0; j < w.targets; ++j) outputs[j] = rows.output(targets[j]);
    loss += make_step<kCbow, kBags>(call, s, batch, w, inputs, outputs);
  }
  if constexpr (kBags)
    for (; left < batch.left; ++left) leave<S>(call, s, (batch.first_word + left) & mask);
  return loss;
}

template <class S>
void begin(const TrainCall& call, char* memory) {
  const Scratch s = scratch_at(call, memory);
  for (int i = 0; i < call.max_contexts; ++i)
    s.window.gradient_rows[i] = s.window.gradients + i * s.row;
  if (call.copies()) CopiedRows<S>::begin(call, s);
}

template <class S>
void finish(const TrainCall& call, char* memory) {
  if (call.copies()) CopiedRows<S>::finish(call, scratch_at(call, memory));
}

template <class S, class Rows>
double run_with(const TrainCall& call, const Batch& batch, char* memory) {
  const bool bags = call.bag_offsets != nullptr;
  if (call.cbow)
    return bags ? run_model<S, Rows, true, true>(call, batch, memory)
                : run_model<S, Rows, true, false>(call, batch, memory);
  return bags ? run_model<S, Rows, false, true>(call, batch, memory)
              : run_model<S, Rows, false, false>(call, batch, memory);
}

template <class S>
double run(const TrainCall& call, const Batch& batch, char* memory) {
  return call.copies() ? run_with<S, CopiedRows<S>>(call, batch, memory)
                       : run_with<S, SharedRows<S>>(call, batch, memory);
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
