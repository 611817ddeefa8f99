// A thread's copies of the upper inner nodes of a Huffman tree (TopNodes).
#pragma once

#include "embedding/train_scratch.h"

namespace seqkern {
namespace SEQKERN_ISA {

template <class S>
inline Copy<S> top_row(const Scratch& s, int slot) {
  S* row = reinterpret_cast<S*>(s.top) + slot * 2 * s.row;
  return {row, row + s.row};
}

// Adds the gain of each copy to its row and copies the row anew. Two threads that did so at once
// could lose the steps of many windows: one at a time.
template <class S>
void merge_top(const TrainCall& call, const Scratch& s) {
  for (int slot = 0; slot < kTopNodes; ++slot) {
    if (call.top.rows[slot] < 0) continue;
    S* row = row_of<S>(call.output, call.top.rows[slot]);
    const Copy<S> copy = top_row<S>(s, slot);
    for_each_chunk(call.dim, [&](int64_t k, auto chunk) __attribute__((always_inline)) {
      const Vf gain = chunk.load(copy.row + k) - chunk.load(copy.before + k);
      chunk.store(row + k, chunk.load(row + k) + gain);
      const Vf merged = chunk.load(row + k);
      chunk.store(copy.row + k, merged);
      chunk.store(copy.before + k, merged);
    });
  }
}

inline bool try_lock(int* lock) {
  return __atomic_exchange_n(lock, 1, __ATOMIC_ACQUIRE) == 0;
}
inline void unlock(int* lock) {
  __atomic_store_n(lock, 0, __ATOMIC_RELEASE);
}

// Merges when it is time; a thread that finds another at it tries again after its next window.
template <class S>
inline void maybe_merge_top(const TrainCall& call, const Scratch& s) {
  if (++*s.since_merge < call.top.period || !try_lock(call.top.lock)) return;
  merge_top<S>(call, s);
  unlock(call.top.lock);
  *s.since_merge = 0;
}

// Points the first targets of a path to the copies.
template <class S>
inline void use_top_rows(const Scratch& s, const uint8_t* labels, int targets, S** rows) {
  for (int slot = 0, level = 0; level < kTopLevels && level < targets; ++level) {
    rows[level] = top_row<S>(s, slot).row;
    slot = 2 * slot + 1 + labels[level];
  }
}

// What the part has gained reaches the table.
template <class S>
void finish_top(const TrainCall& call, const Scratch& s) {
  while (!try_lock(call.top.lock)) prefetch(call.top.lock);
  merge_top<S>(call, s);
  unlock(call.top.lock);
}

// Copies the rows for the first time.
template <class S>
void begin_top(const TrainCall& call, const Scratch& s) {
  *s.since_merge = 0;
  for (int slot = 0; slot < kTopNodes; ++slot) {
    if (call.top.rows[slot] < 0) continue;
    const S* row = row_of<S>(call.output, call.top.rows[slot]);
    const Copy<S> copy = top_row<S>(s, slot);
    for_each_chunk(call.dim, [&](int64_t k, auto chunk) __attribute__((always_inline)) {
      const Vf x = chunk.load(row + k);
      chunk.store(copy.row + k, x);
      chunk.store(copy.before + k, x);
    });
  }
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
