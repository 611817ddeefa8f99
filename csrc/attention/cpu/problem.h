// One attention call as the kernels see it: raw pointers, strides and options.
//
// The operators (compiled once) fill it, the kernels (compiled once per ISA level) read it.
// Pointers are untyped because a table of functions serves several storage types. "storage" is the
// tensors' type; "compute" is float for bfloat16 and float, and double for double.
#pragma once

#include <cstdint>

namespace seqkern {

// Rows of features, the last dimension contiguous: strides in elements.
struct Rows {
  void* data;
  int64_t batch, head, row;
};

// A mask or bias, with a stride of 0 where it is broadcast. Null data: none.
struct Scores {
  const void* data;
  int64_t batch, head, query, key;
};

struct Dropout {
  double probability;  // 0: none
  uint32_t key[2];     // of the Philox generator
};

struct Problem {
  int64_t batch, heads, kv_heads;  // kv_heads divides heads
  int64_t queries, keys;           // of every sequence; packed sequences have starts instead
  int64_t dim, value_dim;
  const int64_t* query_starts;  // (batch + 1), first rows of packed sequences; null: dense
  const int64_t* key_starts;
  Rows query, key, value;  // storage
  Scores mask;             // bytes, nonzero: take part, or with mask_excludes: do not
  bool mask_excludes;
  Scores bias;  // storage, or float if bias_is_float
  bool bias_is_float;
  const void* slopes;  // ALiBi, compute; element (b, h) at b * slopes_batch + h. Null: none
  int64_t slopes_batch;
  const void* sinks;  // compute, (heads). Null: none
  double scale, softcap;
  bool is_causal;  // key <= query
  // With shift = keys - queries: query + shift - window_left <= key <= query + shift +
  // window_right. -1: unlimited.
  int64_t window_left, window_right;
  Dropout dropout;

  bool packed() const { return query_starts != nullptr; }
};

// Queries of a tile.
constexpr int64_t kTileQueries = 64;

// So few queries are decoded, unless there is dropout: see decode_cpu.cpp.
constexpr int64_t kMostDecodedQueries = 8;

// A sequence of no more queries and no more keys is small: one tile holds its scores.
constexpr int64_t kSmallSequence = 64;

// The part of a call that belongs to one sequence.
struct Extent {
  int64_t queries, keys, first_query, first_key;
};

inline Extent extent_of(const Problem& p, int64_t b) {
  if (!p.packed()) return {p.queries, p.keys, 0, 0};
  return {p.query_starts[b + 1] - p.query_starts[b], p.key_starts[b + 1] - p.key_starts[b],
          p.query_starts[b], p.key_starts[b]};
}

template <class S>
S* rows_of(const Rows& rows, int64_t b, int64_t head, int64_t first) {
  return static_cast<S*>(rows.data) + b * rows.batch + head * rows.head + first * rows.row;
}

// The keys that a query may see are those from query + low to query + high, both included.
struct Band {
  int64_t low, high;
};

constexpr int64_t kUnlimited = int64_t(1) << 48;

inline Band band_of(const Problem& p, const Extent& extent) {
  const int64_t shift = extent.keys - extent.queries;
  Band band{-kUnlimited, kUnlimited};
  if (p.window_left >= 0 && p.window_left < kUnlimited) band.low = shift - p.window_left;
  if (p.window_right >= 0 && p.window_right < kUnlimited) band.high = shift + p.window_right;
  if (p.is_causal && band.high > 0) band.high = 0;
  return band;
}

}  // namespace seqkern
