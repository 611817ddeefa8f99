// Deterministic training: windows of several strands of the text are stepped side by side.
#pragma once

#include "embedding/cpu/train_models.h"

namespace seqkern {
namespace SEQKERN_ISA {

// One round of every strand: its next window is stepped on copies of its rows (`propose`), and when
// all strands have done so, what the copies have gained is added to the tables (`accept`), by
// strand.
template <class S, bool kCbow, bool kBags>
double propose_model(const TrainCall& call, const Batch& batch, int index, char* memory) {
  const Scratch s = scratch_at(call, memory);
  const Window& w = batch.windows[index];
  Progress& progress = *s.progress;
  if (index == 0) progress = {batch.entered, 0, 0};
  const int32_t* contexts = batch.contexts + w.first_context;
  const int32_t* targets = batch.targets + w.first_target;
  float** inputs = reinterpret_cast<float**>(s.input_rows);
  float** outputs = reinterpret_cast<float**>(s.output_rows);
  const auto copied = [&](int at, const S* row) __attribute__((always_inline)) {
    const Copy<float> copy = copy_at(s, at);
    for_each_chunk(call.dim, [&](int64_t k, auto chunk) __attribute__((always_inline)) {
      const Vf x = chunk.load(row + k);
      chunk.store(copy.row + k, x);
      chunk.store(copy.before + k, x);
    });
    return copy.row;
  };
  if constexpr (kBags) {
    const int64_t mask = call.ring - 1;
    const int left = index + 1 == batch.count ? batch.left : w.left;
    progress.leaving = left - progress.left;
    progress.left = left;
    for (; progress.entered < w.entered; ++progress.entered)
      enter<S>(call, s, batch.words[progress.entered],
               (batch.first_word + progress.entered) & mask);
    for (int j = 0; j < w.contexts; ++j) inputs[j] = composite_at(s, contexts[j]).row;
  } else {
    for (int j = 0; j < w.contexts; ++j) inputs[j] = copied(j, row_of<S>(call.input, contexts[j]));
  }
  for (int j = 0; j < w.targets; ++j)
    outputs[j] = copied(call.max_contexts + j, row_of<S>(call.output, targets[j]));
  const double loss = make_step<kCbow, kBags>(call, s, batch, w, inputs, outputs);
  if (index + 1 < batch.count) {
    int prefetched = progress.entered;
    SharedRows<S> rows(call, s, batch);
    prefetch_window<kBags, S>(call, rows, batch, index + 1, prefetched);
  }
  return loss;
}

template <class S>
inline void add_gain(S* row, Copy<float> copy, int64_t dim) {
  for_each_chunk(dim, [&](int64_t k, auto chunk) __attribute__((always_inline)) {
    const Vf gain = chunk.load(copy.row + k) - chunk.load(copy.before + k);
    chunk.store(row + k, chunk.load(row + k) + gain);
  });
}

// Adds the gains of the rows r with r % owners == owner.
template <class S>
void accept(const TrainCall& call, const Batch& batch, int index, char* memory, int owner,
            int owners) {
  const Scratch s = scratch_at(call, memory);
  const Window& w = batch.windows[index];
  const auto owned = [&](int32_t row) { return row % owners == owner; };
  if (call.bag_offsets) {
    const Progress& progress = *s.progress;
    for (int i = progress.left - progress.leaving; i < progress.left; ++i)
      leave<S>(call, s, (batch.first_word + i) & (call.ring - 1), owned);
  } else {
    for (int j = 0; j < w.contexts; ++j) {
      const int32_t word = batch.contexts[w.first_context + j];
      if (owned(word)) add_gain(row_of<S>(call.input, word), copy_at(s, j), call.dim);
    }
  }
  for (int j = 0; j < w.targets; ++j) {
    const int32_t target = batch.targets[w.first_target + j];
    if (owned(target))
      add_gain(row_of<S>(call.output, target), copy_at(s, call.max_contexts + j), call.dim);
  }
}

template <class S>
double propose(const TrainCall& call, const Batch& batch, int index, char* memory) {
  const bool bags = call.bag_offsets != nullptr;
  if (call.cbow)
    return bags ? propose_model<S, true, true>(call, batch, index, memory)
                : propose_model<S, true, false>(call, batch, index, memory);
  return bags ? propose_model<S, false, true>(call, batch, index, memory)
              : propose_model<S, false, false>(call, batch, index, memory);
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
