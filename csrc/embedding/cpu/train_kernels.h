// What the trainer's operator (compiled once) and its kernels (compiled once per ISA level) agree
// on.
#pragma once

#include "common/storage.h"
#include "embedding/cpu/train_problem.h"

namespace seqkern {

// Rows of a table that all threads change often: `count` of them from `first` on. Cores that change
// the same row take its cache lines from each other: with two threads, half of all accesses begin
// with a fetch from the other core's cache. So a thread may have copies of these rows to work on;
// at every `period`th use of one, on average, it adds what the copy has gained to the table.
struct HotRows {
  uint32_t count;  // 0: no copies
  int32_t first;
  int period;
  int* locks;  // one for each: 1 while a thread adds what it has gained
};

struct TrainCall {
  Table input, output;
  int64_t dim;
  bool cbow, cbow_mean;
  // Subword bags: word w's input rows are bag_rows[bag_offsets[w], bag_offsets[w + 1]). Null: one
  // row, w.
  const int64_t* bag_offsets;
  const int32_t* bag_rows;
  int max_contexts, max_targets;  // of a window
  int ring;                       // TextOptions::ring
  bool want_loss, deterministic;
  HotRows hot_input, hot_output;

  bool copies() const { return hot_input.count + hot_output.count > 0; }
};

struct TrainKernels {
  // Bytes of working memory for a thread, which is to be 64-byte aligned.
  int64_t (*scratch_bytes)(const TrainCall&);
  // For each part of the text: begin, run for every batch of the stream in turn, finish. run makes
  // the updates and returns the sum of their losses if it is wanted.
  void (*begin)(const TrainCall&, char* scratch);
  double (*run)(const TrainCall&, const Batch&, char* scratch);
  void (*finish)(const TrainCall&, char* scratch);
  // Deterministic training, instead of run and finish: makes the step of one window on copies of
  // its rows; adds what they have gained to the rows r with r % owners == owner.
  double (*propose)(const TrainCall&, const Batch&, int window, char* scratch);
  void (*accept)(const TrainCall&, const Batch&, int window, char* scratch, int owner, int owners);
};

// The kernels of the ISA level in use; float and bfloat16 have some.
const TrainKernels& train_kernels(Storage storage);

}  // namespace seqkern
