// Where a thread works on rows: in the tables beside all others, or on copies of its own (HotRows).
#pragma once

#include <cstring>
#include <limits>

#include "embedding/cpu/train_scratch.h"

namespace seqkern {
namespace SEQKERN_ISA {

template <class S>
__attribute__((always_inline)) inline void prefetch_row(const S* row, int64_t dim) {
  const char* p = reinterpret_cast<const char*>(row);
  for (int64_t at = 0; at < dim * int64_t(sizeof(S)); at += 64) prefetch_to_write(p + at);
}

inline bool try_lock(int* lock) {
  return __atomic_exchange_n(lock, 1, __ATOMIC_ACQUIRE) == 0;
}
inline void unlock(int* lock) {
  __atomic_store_n(lock, 0, __ATOMIC_RELEASE);
}

// All rows in the tables.
template <class S>
class SharedRows {
 public:
  SharedRows(const TrainCall& call, const Scratch&, const Batch&) : call_(call) {}

  S* input(int32_t row) const { return row_of<S>(call_.input, row); }
  S* output(int32_t row) const { return row_of<S>(call_.output, row); }

  // Called for each window of the batch in turn; `renew` some windows later, before its step.
  void foresee(const Batch&, int) const {}
  void renew(int) const {}

 private:
  const TrainCall& call_;
};

// One table, some of whose rows the thread has copies of.
template <class S>
class HotTable {
 public:
  HotTable(const Table& table, const HotRows& hot, const HotScratch& scratch)
      : hot_(hot),
        bytes_(table.stride * int64_t{sizeof(S)}),
        shared_(reinterpret_cast<uintptr_t>(table.rows)),
        copies_(reinterpret_cast<uintptr_t>(scratch.rows) - hot.first * bytes_),
        before_(reinterpret_cast<uintptr_t>(scratch.before) - hot.first * bytes_) {}

  bool is_hot(int32_t row) const { return static_cast<uint32_t>(row - hot_.first) < hot_.count; }

  // Without a branch: whether the next row is a hot one is foreseen no better than a coin's toss.
  S* at(int32_t row) const { return row_at(is_hot(row) ? copies_ : shared_, row); }

  void prefetch_renewal(int32_t row, int64_t dim) const {
    prefetch_row(row_at(before_, row), dim);
    prefetch_row(row_at(shared_, row), dim);
    prefetch_to_write(lock(row));
  }

  // Adds what the copy of a row has gained to the row and copies the row anew. Two threads that did
  // so at once could lose the steps of many windows: false if another is at it.
  __attribute__((noinline)) bool renew(int32_t row, int64_t dim) const {
    if (!try_lock(lock(row))) return false;
    S *shared = row_at(shared_, row), *copy = row_at(copies_, row), *before = row_at(before_, row);
    for_each_chunk(dim, [&](int64_t k, auto chunk) __attribute__((always_inline)) {
      const Vf gain = chunk.load(copy + k) - chunk.load(before + k);
      chunk.store(shared + k, chunk.load(shared + k) + gain);
      const Vf merged = chunk.load(shared + k);  // as the table's dtype rounds it
      chunk.store(copy + k, merged);
      chunk.store(before + k, merged);
    });
    unlock(lock(row));
    return true;
  }

  void copy_all(int64_t dim) const {
    for (int32_t row = hot_.first; row < end(); ++row)
      for (const uintptr_t to : {copies_, before_})
        std::memcpy(row_at(to, row), row_at(shared_, row), dim * sizeof(S));
  }

  // What all copies have gained reaches the table.
  void renew_all(int64_t dim) const {
    for (int32_t row = hot_.first; row < end(); ++row)
      while (!renew(row, dim)) {
      }
  }

 private:
  S* row_at(uintptr_t rows, int32_t row) const { return reinterpret_cast<S*>(rows + row * bytes_); }
  int* lock(int32_t row) const { return hot_.locks + (row - hot_.first); }
  int32_t end() const { return hot_.first + static_cast<int32_t>(hot_.count); }

  const HotRows hot_;
  const int64_t bytes_;                       // of a row
  const uintptr_t shared_, copies_, before_;  // where row 0 is, or would be
};

// Copies of the hot rows in place of them.
template <class S>
class CopiedRows {
 public:
  CopiedRows(const TrainCall& call, const Scratch& s, const Batch& batch)
      : call_(call),
        input_(call.input, call.hot_input, s.hot_input),
        output_(call.output, call.hot_output, s.hot_output),
        renewals_(s.renewals),
        mask_(static_cast<int>(renewal_places(call)) - 1),
        random_(*s.random),
        next_target_(call.hot_output.count > 0 ? interval(call.hot_output.period) : kNever),
        next_word_(call.hot_input.count > 0 ? batch.entered + interval(call.hot_input.period)
                                            : kNever) {}

  // For a thread: before the first batch, and after the last.
  static void begin(const TrainCall& call, const Scratch& s) {
    *s.random = 1;
    HotTable<S>(call.input, call.hot_input, s.hot_input).copy_all(call.dim);
    HotTable<S>(call.output, call.hot_output, s.hot_output).copy_all(call.dim);
  }
  static void finish(const TrainCall& call, const Scratch& s) {
    HotTable<S>(call.input, call.hot_input, s.hot_input).renew_all(call.dim);
    HotTable<S>(call.output, call.hot_output, s.hot_output).renew_all(call.dim);
  }

  S* input(int32_t row) const { return input_.at(row); }
  S* output(int32_t row) const { return output_.at(row); }

  void foresee(const Batch& batch, int index) {
    const Window& w = batch.windows[index];
    for (; next_target_ < w.first_target + w.targets;
         next_target_ += interval(call_.hot_output.period)) {
      const int32_t row = batch.targets[next_target_];
      if (output_.is_hot(row)) push({index, row, true}, output_);
    }
    for (; next_word_ < w.entered; next_word_ += interval(call_.hot_input.period)) {
      const int32_t row = batch.words[next_word_];
      if (input_.is_hot(row)) push({index, row, false}, input_);
    }
  }

  void renew(int index) {
    for (; first_ != last_ && renewals_[first_ & mask_].window == index; ++first_) {
      const Renewal& due = renewals_[first_ & mask_];
      (due.output ? output_ : input_).renew(due.row, call_.dim);
    }
  }

 private:
  void push(Renewal due, const HotTable<S>& table) {
    table.prefetch_renewal(due.row, call_.dim);
    renewals_[last_++ & mask_] = due;
  }

  // At random, so that no row falls out of step with it: `period` on average.
  int interval(int period) {
    random_ = random_ * 1664525u + 1013904223u;
    return 1 +
           static_cast<int>((uint64_t{random_} * (2 * static_cast<uint32_t>(period) - 1)) >> 32);
  }

  static constexpr int kNever = std::numeric_limits<int>::max();

  const TrainCall& call_;
  const HotTable<S> input_, output_;
  Renewal* const renewals_;
  const int mask_;
  uint32_t& random_;
  int first_ = 0, last_ = 0;
  int next_target_, next_word_;  // whose row is to be renewed next, as they stand in the batch
};

}  // namespace SEQKERN_ISA
}  // namespace seqkern
