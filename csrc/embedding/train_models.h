// How the models take their input rows from the table and give their steps back: skip-gram by row,
// CBOW by the sum over a window, both with words or with subword bags.
#pragma once

#include <type_traits>

#include "embedding/train_kernels.h"
#include "embedding/train_window.h"

namespace seqkern {
namespace SEQKERN_ISA {

// ---- working memory ----

// A word's composite row while the word is within reach of a window, and as it was when it came.
struct Composite {
  float* row;
  float* before;
};

struct Scratch {
  WindowScratch window;
  void** input_rows;   // max_contexts
  void** output_rows;  // max_targets
  float *mean, *step;  // CBOW
  float* composites;   // ring * 2 rows
  int32_t* words;      // ring: whose composites they are
  int64_t row;         // elements of a row here
  int64_t bytes;
};

constexpr int64_t padded(int64_t count, int64_t unit) {
  return (count + unit - 1) / unit * unit;
}

// Lays out the scratch from `memory` on.
inline Scratch scratch_at(const TrainCall& call, char* memory) {
  char* next = memory;
  const auto take = [&](int64_t bytes) __attribute__((always_inline)) {
    char* here = next;
    next += padded(bytes, 64);
    return here;
  };
  const int64_t contexts = call.max_contexts, targets = call.max_targets;
  Scratch s;
  s.row = padded(call.dim, 16);
  s.window.errors =
      reinterpret_cast<float*>(take((contexts * targets + kErrorSlack) * sizeof(float)));
  s.window.products =
      reinterpret_cast<float*>(take((contexts * kBlockTargets + kErrorSlack) * sizeof(float)));
  if (!call.want_loss) s.window.products = nullptr;
  s.window.gradients = reinterpret_cast<float*>(take(contexts * s.row * sizeof(float)));
  s.window.gradient_rows = reinterpret_cast<float**>(take(contexts * sizeof(float*)));
  s.input_rows = reinterpret_cast<void**>(take(contexts * sizeof(void*)));
  s.output_rows = reinterpret_cast<void**>(take(targets * sizeof(void*)));
  s.mean = reinterpret_cast<float*>(take(s.row * sizeof(float)));
  s.step = reinterpret_cast<float*>(take(s.row * sizeof(float)));
  s.composites = reinterpret_cast<float*>(take(call.ring * 2 * s.row * sizeof(float)));
  s.words = reinterpret_cast<int32_t*>(take(call.ring * sizeof(int32_t)));
  s.bytes = next - memory;
  return s;
}

inline int64_t scratch_bytes(const TrainCall& call) {
  return scratch_at(call, nullptr).bytes;
}

inline Composite composite_at(const Scratch& s, int64_t place) {
  float* row = s.composites + place * 2 * s.row;
  return {row, row + s.row};
}

// ---- prefetching ----

template <class S>
__attribute__((always_inline)) inline void prefetch_row(const Table& table, int64_t row,
                                                        int64_t dim) {
  const char* p = static_cast<const char*>(table.rows) + row * table.stride * sizeof(S);
  for (int64_t at = 0; at < dim * int64_t(sizeof(S)); at += 64) prefetch_to_write(p + at);
}

// Windows between the prefetch of a window's rows and their use.
constexpr int kAhead = 4;

template <class S, bool kBags>
inline void prefetch_window(const TrainCall& call, const Batch& batch, const Window& w,
                            int& prefetched) {
  for (int j = 0; j < w.targets; ++j)
    prefetch_row<S>(call.output, batch.targets[w.first_target + j], call.dim);
  for (; prefetched < w.entered; ++prefetched) {
    const int32_t word = batch.words[prefetched];
    if constexpr (kBags) {
      for (int64_t r = call.bag_offsets[word]; r < call.bag_offsets[word + 1]; ++r)
        prefetch_row<S>(call.input, call.bag_rows[r], call.dim);
    } else {
      prefetch_row<S>(call.input, word, call.dim);
    }
  }
}

// ---- input rows ----

template <class S>
inline S* row_of(const Table& table, int64_t row) {
  return static_cast<S*>(table.rows) + row * table.stride;
}

inline int64_t bag_size(const TrainCall& call, int32_t word) {
  return call.bag_offsets[word + 1] - call.bag_offsets[word];
}

// A word comes within reach: its composite is the mean of its bag, for CBOW the sum.
template <class S>
inline void enter(const TrainCall& call, const Scratch& s, int32_t word, int64_t place) {
  const int64_t begin = call.bag_offsets[word], size = bag_size(call, word);
  const Composite c = composite_at(s, place);
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

// A word leaves: each row of its bag moves as the mean has.
template <class S>
inline void leave(const TrainCall& call, const Scratch& s, int64_t place) {
  const int32_t word = s.words[place];
  const int64_t begin = call.bag_offsets[word], size = bag_size(call, word);
  const Composite c = composite_at(s, place);
  const Vf scale(call.cbow && size > 0 ? 1.0f / static_cast<float>(size) : 1.0f);
  for_each_chunk(call.dim, [&](int64_t k, auto chunk) __attribute__((always_inline)) {
    const Vf step = scale * (chunk.load(c.row + k) - chunk.load(c.before + k));
    for (int64_t r = begin; r < begin + size; ++r) {
      S* row = row_of<S>(call.input, call.bag_rows[r]);
      chunk.store(row + k, chunk.load(row + k) + step);
    }
  });
}

// ---- the windows of a batch ----

// One CBOW window: its contexts `rows` (words, or composites of bags) are added up; `places` are
// theirs in the ring.
template <class A, class S, bool kBags>
inline double update_cbow(const TrainCall& call, const Scratch& s, A* const* rows, int contexts,
                          const int32_t* places, WindowRows<float, S>& window) {
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

template <class S, bool kCbow, bool kBags>
double run_model(const TrainCall& call, const Batch& batch, char* memory) {
  using A = std::conditional_t<kBags, float, S>;
  using Row = std::conditional_t<kCbow, float, A>;
  const Scratch s = scratch_at(call, memory);
  for (int i = 0; i < call.max_contexts; ++i)
    s.window.gradient_rows[i] = s.window.gradients + i * s.row;
  A** inputs = reinterpret_cast<A**>(s.input_rows);
  S** outputs = reinterpret_cast<S**>(s.output_rows);
  const float one = 1;
  const int64_t mask = call.ring - 1;
  int entered = batch.entered, left = 0, prefetched = entered;
  double loss = 0;
  for (int i = 0; i < kAhead && i < batch.count; ++i)
    prefetch_window<S, kBags>(call, batch, batch.windows[i], prefetched);
  for (int i = 0; i < batch.count; ++i) {
    const Window& w = batch.windows[i];
    if (i + kAhead < batch.count)
      prefetch_window<S, kBags>(call, batch, batch.windows[i + kAhead], prefetched);
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
        inputs[j] = row_of<S>(call.input, contexts[j]);
    }
    for (int j = 0; j < w.targets; ++j) outputs[j] = row_of<S>(call.output, targets[j]);
    WindowRows<Row, S> window{};
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
      loss += update_cbow<A, S, kBags>(call, s, inputs, w.contexts, contexts, window);
    } else {
      window.a = inputs;
      loss += update_window(window, s.window);
    }
  }
  if constexpr (kBags)
    for (; left < batch.left; ++left) leave<S>(call, s, (batch.first_word + left) & mask);
  return loss;
}

template <class S>
double run(const TrainCall& call, const Batch& batch, char* memory) {
  const bool bags = call.bag_offsets != nullptr;
  if (call.cbow)
    return bags ? run_model<S, true, true>(call, batch, memory)
                : run_model<S, true, false>(call, batch, memory);
  return bags ? run_model<S, false, true>(call, batch, memory)
              : run_model<S, false, false>(call, batch, memory);
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
