// What the trainer's operator (compiled once) and its kernels (compiled once per ISA level) agree
// on.
#pragma once

#include "common/storage.h"
#include "embedding/train_problem.h"

namespace seqkern {

// The inner nodes of the upper levels of a Huffman tree, which every window changes: threads would
// wait for each other's cache lines all the time. Each thread works on copies and adds what they
// have gained to the table every `period` windows. Slot 0 is the root; below slot i are 2 i + 1
// (label 0) and 2 i + 2 (label 1).
constexpr int kTopLevels = 4, kTopNodes = (1 << kTopLevels) - 1;

struct TopNodes {
  int32_t rows[kTopNodes];  // of the output table; -1: no such node
  int period;               // 0: no copies
  int* lock;                // 1 while a thread adds its gains
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
  TopNodes top;
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
