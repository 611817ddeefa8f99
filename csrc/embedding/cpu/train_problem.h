// A training call as its parts see it: the text and how windows are drawn from it; the tables and
// how a window changes them.
#pragma once

#include <cstdint>

namespace seqkern {

// An entry of Walker's alias table: of a 64-bit number times the number of entries, the upper half
// picks the entry, the lower half is compared with the threshold.
struct AliasEntry {
  uint32_t threshold, alias;
};

struct TextOptions {
  const int32_t* tokens;  // word ids; -1 ends a sentence
  int64_t count;
  const float* keep;  // the probability that subsampling leaves a word in
  int window;
  bool shrink_windows;
  // Negative sampling: null for hierarchical softmax.
  const AliasEntry* noise;
  uint32_t noise_size;
  int negatives;
  bool share_negatives;
  // Hierarchical softmax: word w's path is nodes [path_offsets[w], path_offsets[w + 1]).
  const int64_t* path_offsets;
  const int32_t* path_nodes;
  const uint8_t* path_codes;
  int max_targets;  // the longest path, or the centre word with its negatives
  bool cbow;
  // Contexts are given as places in a ring instead of as word ids, and none is merged with its
  // like: with subword bags, whose composite rows lie in the ring. 0: by id; else a power of two.
  int ring;
  double lr, final_lr;
};

// One update: `contexts` input rows with `targets` output rows.
struct Window {
  int first_context, contexts;
  int first_target, targets;
  // Words of the batch that have come within reach of a window, and that have left it, by now.
  int entered, left;
  // A word stands twice among contexts or targets: once in the list, with a weight.
  bool weighted;
  float lr;
};

// Windows in the order of the text, with the words of their sentences.
struct Batch {
  const Window* windows;
  int count;
  const int32_t* contexts;  // word ids, or places in the ring
  const float* context_weights;
  const int32_t* targets;  // rows of the output table
  const uint8_t* labels;   // 1: this target should be predicted
  const float* target_weights;
  const int32_t* words;  // kept words, from the first that has not left
  int64_t first_word;    // how many came before words[0]: with it, a word's place in the ring
  int entered;           // words that have come within reach in earlier batches
  int left;              // words that have left at the end of the batch
};

struct Table {
  void* rows;
  int64_t stride;  // elements
};

}  // namespace seqkern
