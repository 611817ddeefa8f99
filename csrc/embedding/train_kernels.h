// What the trainer's operator (compiled once) and its kernels (compiled once per ISA level) agree
// on.
#pragma once

#include "common/storage.h"
#include "embedding/train_problem.h"

namespace seqkern {

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
  bool want_loss;
};

struct TrainKernels {
  // Bytes of working memory for a thread, which is to be 64-byte aligned.
  int64_t (*scratch_bytes)(const TrainCall&);
  // Makes the updates of a batch; returns the sum of their losses if it is wanted. Batches of one
  // stream follow each other with the same scratch.
  double (*run)(const TrainCall&, const Batch&, char* scratch);
};

// The kernels of the ISA level in use; float and bfloat16 have some.
const TrainKernels& train_kernels(Storage storage);

}  // namespace seqkern
