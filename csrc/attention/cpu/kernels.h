// What the attention operators (compiled once) and their kernels (compiled once per ISA level)
// agree on.
#pragma once

#include <atomic>

#include "attention/cpu/problem.h"
#include "common/barrier.h"
#include "common/storage.h"

namespace seqkern {

// A *unit* of work is what shares keys: one key/value head of one sequence with the query heads
// that read it. A *team* of threads works on one unit at a time.
struct Team {
  explicit Team(int members) : barrier(members), members(members) {}

  Barrier barrier;
  const int members;
  std::atomic<int64_t> next{0};  // the next piece of the unit to be taken
};

// The members of a team that one callback stands for: [begin, end). With fewer threads than
// members, one callback does the work of several.
struct Members {
  int begin, end;
  int count() const { return end - begin; }
};

struct Place {
  Team& team;
  Members members;
  char* shared;  // scratch of the team
  char* own;     // scratch of this callback
};

struct ForwardCall {
  Problem problem;
  Rows output;  // storage
  // compute; element (b, h, i) at b * lse_batch + h * lse_head + i. Null: not wanted
  void* lse;
  int64_t lse_batch, lse_head;
};

// A forward whose weights are wanted, too. A piece of work is a block of queries of a sequence with
// a group of heads: piece (b, block, group) is number (b * blocks + block) * groups + group.
struct WeightsCall {
  ForwardCall forward;
  void* weights;  // storage; (batch, queries, keys) if mean, else (batch, heads, queries, keys)
  bool mean;      // over the heads
  int64_t tiles;  // of queries in a block
  int64_t blocks, groups;
  void* sums;  // compute (pieces, tiles, keys, kTileQueries), where a mean has more groups than one
};

struct BackwardCall {
  Problem problem;
  // storage. Output and lse may be null where a sequence is small (kSmallSequence): then the
  // softmax and delta come from the backward's own scores.
  Rows output, grad_output;
  const void* lse;       // compute
  const void* grad_lse;  // compute, or null
  int64_t lse_batch, lse_head;
  Rows grad_query, grad_key, grad_value;  // storage; null data: not wanted
  Scores grad_bias;   // compute, zeroed; strides of 0 where bias is broadcast. Null: not wanted
  void* grad_slopes;  // compute (batch, heads). Null: not wanted
  // A unit of the backward: so many sequences and key/value heads, which share elements of
  // grad_bias.
  int64_t unit_batch, unit_heads;
};

struct AttentionKernels {
  // Bytes of scratch for a team and for each callback.
  int64_t (*forward_shared)(const Problem&, int members);
  int64_t (*forward_own)(const Problem&);
  void (*forward)(const ForwardCall&, int64_t unit, Place);

  // The pieces of a WeightsCall; where a mean has more groups than one, then its blocks.
  int64_t (*weights_own)(const WeightsCall&);
  void (*weights)(const WeightsCall&, int64_t piece, Place);
  void (*combine_weights)(const WeightsCall&, int64_t block, Place);

  int64_t (*backward_shared)(const Problem&, int members);
  int64_t (*backward_own)(const Problem&);
  void (*backward)(const BackwardCall&, int64_t unit, Place);

  // Which probabilities of one head dropout keeps: bytes (queries, keys). head: sequence * heads +
  // head.
  void (*dropout_mask)(const Dropout&, uint32_t head, int64_t queries, int64_t keys, uint8_t* keep);
};

// The kernels of the ISA level in use.
const AttentionKernels& attention_kernels(Storage storage);

}  // namespace seqkern
