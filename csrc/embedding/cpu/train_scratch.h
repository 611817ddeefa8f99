// A thread's working memory, and rows in it and in the tables.
#pragma once

#include "common/ceil_div.h"
#include "embedding/cpu/train_kernels.h"
#include "embedding/cpu/train_window.h"

namespace seqkern {
namespace SEQKERN_ISA {

// A thread's copies of the rows of HotRows.
struct HotScratch {
  char *rows, *before;  // the copies, and what they were when they were made
};

// A row of which a new copy is due before window `window`.
struct Renewal {
  int window;
  int32_t row;
  bool output;
};

// A copy of a row, or what stands for several, that is worked on, and as it was when it was made.
template <class S>
struct Copy {
  S *row, *before;
};

// Where a strand of deterministic training stands in its batch.
struct Progress {
  int entered, left;  // words, as in Window
  int leaving;        // of those that have left, how many have still to give back their steps
};

// The working memory of a thread; in deterministic training, of a strand.
struct Scratch {
  HotScratch hot_input, hot_output;
  Renewal* renewals;  // a ring of renewal_places
  uint32_t* random;   // which uses bring one
  WindowScratch window;
  void** input_rows;   // max_contexts
  void** output_rows;  // max_targets
  float *mean, *step;  // CBOW
  float* copies;       // (max_contexts + max_targets) * 2 rows: deterministic training
  Progress* progress;  // the same
  float* composites;   // ring * 2 rows
  int32_t* words;      // ring: whose composites they are
  int64_t row;         // elements of a row here
  int64_t bytes;
};

// Windows between the prefetch of a window's rows and their use.
constexpr int kAhead = 4;

// A power of two, and room for all rows of the windows that have been prefetched and not used.
inline int64_t renewal_places(const TrainCall& call) {
  const int64_t rows = (kAhead + 1) * (int64_t{call.max_targets} + call.max_contexts + 2);
  int64_t places = 1;
  while (places < rows) places *= 2;
  return places;
}

// Lays out the scratch from `memory` on.
__attribute__((noinline)) inline Scratch scratch_at(const TrainCall& call, char* memory) {
  char* next = memory;
  const auto take = [&](int64_t bytes) __attribute__((always_inline)) {
    char* here = next;
    next += round_up(bytes, 64);
    return here;
  };
  const int64_t contexts = call.max_contexts, targets = call.max_targets;
  Scratch s;
  s.row = round_up(call.dim, 16);
  const auto hot = [&](const HotRows& rows, const Table& table) __attribute__((always_inline)) {
    const int64_t bytes = rows.count * table.stride * sizeof(float);
    return HotScratch{take(bytes), take(bytes)};
  };
  s.hot_input = hot(call.hot_input, call.input);
  s.hot_output = hot(call.hot_output, call.output);
  s.random = reinterpret_cast<uint32_t*>(take(sizeof(uint32_t)));
  s.renewals =
      reinterpret_cast<Renewal*>(take(call.copies() ? renewal_places(call) * sizeof(Renewal) : 0));
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
  const int64_t copies = call.deterministic ? 2 * (contexts + targets) : 0;
  s.copies = reinterpret_cast<float*>(take(copies * s.row * sizeof(float)));
  s.progress = reinterpret_cast<Progress*>(take(sizeof(Progress)));
  s.composites = reinterpret_cast<float*>(take(call.ring * 2 * s.row * sizeof(float)));
  s.words = reinterpret_cast<int32_t*>(take(call.ring * sizeof(int32_t)));
  s.bytes = next - memory;
  return s;
}

inline int64_t scratch_bytes(const TrainCall& call) {
  return scratch_at(call, nullptr).bytes;
}

// Copy `at` of deterministic training: first the contexts, then the targets.
inline Copy<float> copy_at(const Scratch& s, int64_t at) {
  float* row = s.copies + at * 2 * s.row;
  return {row, row + s.row};
}

inline Copy<float> composite_at(const Scratch& s, int64_t place) {
  float* row = s.composites + place * 2 * s.row;
  return {row, row + s.row};
}

template <class S>
inline S* row_of(const Table& table, int64_t row) {
  return static_cast<S*>(table.rows) + row * table.stride;
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
