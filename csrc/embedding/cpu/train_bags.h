// Subword bags: the composite row of a word while the word is within reach of a window.
#pragma once

#include "embedding/cpu/train_scratch.h"

namespace seqkern {
namespace SEQKERN_ISA {

inline int64_t bag_size(const TrainCall& call, int32_t word) {
  return call.bag_offsets[word + 1] - call.bag_offsets[word];
}

// A word comes within reach: its composite is the mean of its bag, for CBOW the sum.
template <class S>
__attribute__((noinline)) void enter(const TrainCall& call, const Scratch& s, int32_t word,
                                     int64_t place) {
  const int64_t begin = call.bag_offsets[word], size = bag_size(call, word);
  const Copy<float> c = composite_at(s, place);
  s.words[place] = word;
  const Vf scale(call.cbow || size == 0 ? 1.0f : 1.0f / static_cast<float>(size));
  for_each_chunk(call.dim, [&](int64_t k, auto chunk) __attribute__((always_inline)) {
    Vf total(0.0f);
    for (int64_t r = begin; r < begin + size; ++r)
      total += chunk.load(row_of<S>(call.input, call.bag_rows[r]) + k);
    total = total * scale;
    chunk.store(c.row + k, total);
    chunk.store(c.before + k, total);
  });
}

// A word leaves: each row of its bag for which `wanted` is true moves as the mean has.
template <class S, class Wanted>
__attribute__((noinline)) void leave(const TrainCall& call, const Scratch& s, int64_t place,
                                     const Wanted& wanted) {
  const int32_t word = s.words[place];
  const int64_t begin = call.bag_offsets[word], size = bag_size(call, word);
  const Copy<float> c = composite_at(s, place);
  const Vf scale(call.cbow && size > 0 ? 1.0f / static_cast<float>(size) : 1.0f);
  for_each_chunk(call.dim, [&](int64_t k, auto chunk) __attribute__((always_inline)) {
    const Vf step = scale * (chunk.load(c.row + k) - chunk.load(c.before + k));
    for (int64_t r = begin; r < begin + size; ++r) {
      if (!wanted(call.bag_rows[r])) continue;
      S* row = row_of<S>(call.input, call.bag_rows[r]);
      chunk.store(row + k, chunk.load(row + k) + step);
    }
  });
}

template <class S>
inline void leave(const TrainCall& call, const Scratch& s, int64_t place) {
  leave<S>(call, s, place, [](int32_t) { return true; });
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
