// Sums of table rows, in registers (compiled per ISA level).
#pragma once

#include "common/blocks.h"
#include "embedding/cpu/objective_kernels.h"

namespace seqkern {
namespace SEQKERN_ISA {

// ---- the last vector of a row: its first n lanes, 0 < n <= kLanes ----

template <class S>
inline Vec<compute_t<S>> load_part(const S* p, int n) {
#if defined(__AVX512F__)
  return load_lanes(p, n);
#else
  return load_first(p, n);
#endif
}

template <class S>
inline void store_part(S* p, Vec<compute_t<S>> x, int n) {
#if defined(__AVX512F__)
  if constexpr (__is_same(S, compute_t<S>)) return store_lanes(p, x, n);
#endif
  store_first(p, x, n);
}

// ---- weighted sums of rows ----

template <class S>
inline void prefetch_row(const S* row, int64_t dim) {
  const char* bytes = reinterpret_cast<const char*>(row);
  for (int64_t at = 0; at < dim * int64_t(sizeof(S)); at += kLineBytes) prefetch(bytes + at);
}

// kVectors vectors of the sum, the last of which is `last` wide.
// at(i, row, weight): the i-th summand; finish(offset, sum, width): takes the result.
template <int kVectors, class S, class At, class Finish>
inline void sum_vectors(int64_t from, int last, int64_t count, const At& at, const Finish& finish) {
  using T = compute_t<S>;
  constexpr int kLanes = Vec<T>::kLanes;
  Vec<T> sums[kVectors];
  for (int k = 0; k < kVectors; ++k) sums[k] = Vec<T>(T(0));
  for (int64_t i = 0; i < count; ++i) {
    const S* row;
    T weight;
    at(i, row, weight);
    row += from;
    for (int k = 0; k < kVectors - 1; ++k) sums[k] += Vec<T>(weight) * load(row + k * kLanes);
    sums[kVectors - 1] += Vec<T>(weight) * load_part(row + (kVectors - 1) * kLanes, last);
  }
  for (int k = 0; k < kVectors; ++k)
    finish(from + k * kLanes, sums[k], k + 1 < kVectors ? kLanes : last);
}

template <class S, class At, class Finish>
inline void sum_rows(int64_t dim, int64_t count, const At& at, const Finish& finish) {
  constexpr int kLanes = Vec<compute_t<S>>::kLanes, kMost = 8;
  for (int64_t from = 0; from < dim; from += kMost * kLanes) {
    const int64_t width = smaller(dim - from, int64_t(kMost * kLanes));
    const int vectors = static_cast<int>(ceil_div(width, kLanes));
    const int last = static_cast<int>(width - (vectors - 1) * kLanes);
    switch (vectors) {
#define SEQKERN_VECTORS(n)                            \
  case n:                                             \
    sum_vectors<n, S>(from, last, count, at, finish); \
    break;
      SEQKERN_VECTORS(1)
      SEQKERN_VECTORS(2)
      SEQKERN_VECTORS(3)
      SEQKERN_VECTORS(4)
      SEQKERN_VECTORS(5)
      SEQKERN_VECTORS(6)
      SEQKERN_VECTORS(7)
      SEQKERN_VECTORS(8)
#undef SEQKERN_VECTORS
    }
  }
}

// The sum of group g, whose vectors finish() takes.
template <class T, class Finish>
inline void sum_group(const RowSums& sums, int64_t g, const Finish& finish) {
  const T* source = static_cast<const T*>(sums.source);
  const T* weights = static_cast<const T*>(sums.weights);
  const uint32_t* entries = sums.entries + sums.starts[g];
  const auto at = [&](int64_t i, const T*& row, T& weight) {
    const uint32_t entry = entries[i];
    const uint32_t owner = sums.owners ? sums.owners[entry] : entry / sums.per_owner;
    row = source + int64_t(owner) * sums.dim;
    weight = weights ? weights[entry] : T(1);
  };
  sum_rows<T>(sums.dim, sums.starts[g + 1] - sums.starts[g], at, finish);
}

// The rows of source that the entries at `place` and after read come from all over it.
template <class T>
inline void prefetch_source(const RowSums& sums, int64_t place, int64_t end) {
  if (place >= end) return;
  const uint32_t entry = sums.entries[place];
  const uint32_t owner = sums.owners ? sums.owners[entry] : entry / sums.per_owner;
  prefetch_row(static_cast<const T*>(sums.source) + int64_t(owner) * sums.dim, sums.dim);
}

constexpr int64_t kEntriesAhead = 8;

template <class S>
inline void write_group(const RowSums& sums, int64_t g, S* out, int64_t last_entry) {
  using T = compute_t<S>;
  prefetch_source<T>(sums, sums.starts[g] + kEntriesAhead, last_entry);
  const Vec<T> scale(static_cast<T>(sums.scale));
  sum_group<T>(sums, g, [&](int64_t offset, Vec<T> sum, int width) {
    store_part(out + offset, scale * sum, width);
  });
}

template <class S>
void sums_compact(const RowSums& sums, int64_t begin, int64_t end) {
  S* out = static_cast<S*>(sums.out);
  for (int64_t g = begin; g < end; ++g)
    write_group(sums, g, out + g * sums.out_stride, sums.starts[end]);
}

template <class S>
void sums_dense(const RowSums& sums, int64_t begin, int64_t end, int64_t first, int64_t last) {
  S* out = static_cast<S*>(sums.out);
  const auto clear = [&](int64_t from, int64_t to) {
    if (to > from)
      std::memset(static_cast<void*>(out + from * sums.out_stride), 0,
                  static_cast<size_t>((to - from) * sums.out_stride) * sizeof(S));
  };
  for (int64_t g = begin; g < end; ++g) {
    const int64_t row = sums.rows[g];
    clear(first, row);
    write_group(sums, g, out + row * sums.out_stride, sums.starts[end]);
    first = row + 1;
  }
  clear(first, last);
}

template <class S>
void sums_added(const RowSums& sums, int64_t begin, int64_t end) {
  using T = compute_t<S>;
  const Vec<T> scale(static_cast<T>(sums.scale));
  constexpr int64_t kGroupsAhead = 4;
  for (int64_t g = begin; g < end; ++g) {
    if (g + kGroupsAhead < end)
      prefetch_row(static_cast<S*>(sums.out) + sums.rows[g + kGroupsAhead] * sums.out_stride,
                   sums.dim);
    prefetch_source<T>(sums, sums.starts[g] + kEntriesAhead, sums.starts[end]);
    S* out = static_cast<S*>(sums.out) + sums.rows[g] * sums.out_stride;
    sum_group<T>(sums, g, [&](int64_t offset, Vec<T> sum, int width) {
      store_part(out + offset, load_part(out + offset, width) + scale * sum, width);
    });
  }
}

template <class S>
void bag_vectors(const void* weight, int64_t stride, int64_t dim, const int64_t* words,
                 const int64_t* offsets, const int32_t* bag_rows, bool mean, void* out,
                 int64_t begin, int64_t end) {
  using T = compute_t<S>;
  const S* table = static_cast<const S*>(weight);
  for (int64_t n = begin; n < end; ++n) {
    if (n + 1 < end) {
      const int64_t next = words[n + 1];
      for (int64_t place = offsets[next]; place < offsets[next + 1]; ++place)
        prefetch_row(table + bag_rows[place] * stride, dim);
    }
    const int32_t* rows = bag_rows + offsets[words[n]];
    const int64_t count = offsets[words[n] + 1] - offsets[words[n]];
    const Vec<T> scale(mean && count > 1 ? T(1) / static_cast<T>(count) : T(1));
    S* vector = static_cast<S*>(out) + n * dim;
    const auto at = [&](int64_t i, const S*& row, T& one) {
      row = table + rows[i] * stride;
      one = T(1);
    };
    sum_rows<S>(dim, count, at, [&](int64_t offset, Vec<T> sum, int width) {
      store_part(vector + offset, scale * sum, width);
    });
  }
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
