// The update of one window: a step of stochastic gradient descent on
//
//   sum over contexts i and targets j of  -log sigma(z_ij),  z_ij = a_i . b_j * (label_j ? 1 : -1)
//
// with all products taken of the rows as they were. With e_ij = lr * (label_j - sigma(a_i . b_j)):
//
//   a_i += sum_j e_ij b_j,   b_j += sum_i e_ij a_i.
//
// Three small matrix products. The first runs over tiles of contexts x targets whose accumulators
// fill the registers; the other two run together, chunk by chunk: a chunk of all targets and of
// their sums stays in registers while the contexts pass by, so that each row is read and written
// once.
#pragma once

#include <cmath>
#include <utility>

#include "embedding/train_lanes.h"

namespace seqkern {
namespace SEQKERN_ISA {

// Targets of one block: a chunk of each, its sum, and a context's chunk and sum fill the registers.
constexpr int kBlockTargets = kVectorRegisters == 32 ? 12 : 6;
constexpr int kTileAccumulators = kVectorRegisters == 32 ? 24 : 12;
constexpr int kTileContexts = 4;

template <class A, class B>
struct WindowRows {
  A* const* a;
  int contexts;
  B* const* b;
  int targets;
  const uint8_t* labels;
  // How often each row counts; null: once.
  const float* context_weights;
  const float* target_weights;
  float lr;
  int64_t dim;
};

// Working memory of a thread for windows of up to C contexts and T targets.
struct WindowScratch {
  float* errors;          // C * T + kErrorSlack
  float* gradients;       // (C, dim): used where there is more than one block of targets
  float** gradient_rows;  // C
};
constexpr int kErrorSlack = 64;

// The products of kM contexts and kN targets into out[i * kN + j]; up to a vector behind them may
// be written, too.
template <int kM, int kN, class A, class B>
inline void tile_products(A* const* a, B* const* b, int64_t dim, float* out) {
  Vf sums[kM * kN];
#pragma GCC unroll 32
  for (int i = 0; i < kM * kN; ++i) sums[i] = Vf(0.0f);
  for_each_chunk(dim, [&](int64_t k, auto chunk) __attribute__((always_inline)) {
    Vf x[kM];
#pragma GCC unroll 4
    for (int i = 0; i < kM; ++i) x[i] = chunk.load(a[i] + k);
#pragma GCC unroll 12
    for (int j = 0; j < kN; ++j) {
      const Vf y = chunk.load(b[j] + k);
#pragma GCC unroll 4
      for (int i = 0; i < kM; ++i) sums[i * kN + j] += x[i] * y;
    }
  });
  constexpr int kCount = kM * kN;
  if constexpr (kCount > kLanes) {
    constexpr int kWhole = kCount / kLanes;
#pragma GCC unroll 8
    for (int v = 0; v < kWhole; ++v)
      SEQKERN_ISA::store(out + v * kLanes, horizontal_sums<kLanes>(sums + v * kLanes));
    if constexpr (kCount % kLanes != 0)
      SEQKERN_ISA::store(out + kWhole * kLanes,
                         horizontal_sums<kCount % kLanes>(sums + kWhole * kLanes));
  } else {
    SEQKERN_ISA::store(out, horizontal_sums<kCount>(sums));
  }
}

template <int kN, class A, class B>
void products(A* const* a, int contexts, B* const* b, int64_t dim, float* out) {
  constexpr int kFit = kTileAccumulators / kN;
  constexpr int kMost = kFit < kTileContexts ? kFit : kTileContexts;
  const int tiles = (contexts + kMost - 1) / kMost;
  for (int tile = 0, i = 0; tile < tiles; ++tile) {
    const int m = (contexts - i + tiles - tile - 1) / (tiles - tile);  // as equal as can be
    if (m == 1) tile_products<1, kN>(a + i, b, dim, out + i * kN);
    if constexpr (kMost >= 2)
      if (m == 2) tile_products<2, kN>(a + i, b, dim, out + i * kN);
    if constexpr (kMost >= 3)
      if (m == 3) tile_products<3, kN>(a + i, b, dim, out + i * kN);
    if constexpr (kMost >= 4)
      if (m == 4) tile_products<4, kN>(a + i, b, dim, out + i * kN);
    i += m;
  }
}

// Adds what the errors e (contexts, kN) make of each row: to the targets in place, to the contexts
// in place or (kInPlace = false) to the rows of `gradients`.
template <int kN, bool kInPlace, class A, class B>
void update(A* const* a, int contexts, float* const* gradients, B* const* b, const float* e,
            int64_t dim) {
  for_each_chunk(dim, [&](int64_t k, auto chunk) __attribute__((always_inline)) {
    Vf y[kN], dy[kN];
#pragma GCC unroll 12
    for (int j = 0; j < kN; ++j) dy[j] = y[j] = chunk.load(b[j] + k);
    const float* error = e;
    for (int i = 0; i < contexts; ++i, error += kN) {
      const Vf x = chunk.load(a[i] + k);
      Vf dx = kInPlace ? x : chunk.load(gradients[i] + k);
#pragma GCC unroll 12
      for (int j = 0; j < kN; ++j) {
        const Vf weight(error[j]);
        dx += weight * y[j];
        dy[j] += weight * x;
      }
      if constexpr (kInPlace)
        chunk.store(a[i] + k, dx);
      else
        chunk.store(gradients[i] + k, dx);
    }
#pragma GCC unroll 12
    for (int j = 0; j < kN; ++j) chunk.store(b[j] + k, dy[j]);
  });
}

template <class A, class B>
struct BlockKernels {
  void (*products)(A* const*, int, B* const*, int64_t, float*);
  void (*update)(A* const*, int, float* const*, B* const*, const float*, int64_t);
  void (*add_gradients)(A* const*, int, float* const*, B* const*, const float*, int64_t);
};

template <class A, class B, int... kCounts>
constexpr BlockKernels<A, B> kernels_for(int targets, std::integer_sequence<int, kCounts...>) {
  constexpr BlockKernels<A, B> table[] = {{products<kCounts + 1, A, B>,
                                           update<kCounts + 1, true, A, B>,
                                           update<kCounts + 1, false, A, B>}...};
  return table[targets - 1];
}

template <class A, class B>
inline BlockKernels<A, B> block_kernels(int targets) {
  return kernels_for<A, B>(targets, std::make_integer_sequence<int, kBlockTargets>());
}

// -log of the product of probabilities: up to 8 of them in one logarithm, which cannot underflow
// because none is below exp(-87).
inline double minus_log(const float* p, int count) {
  double total = 0;
  for (int i = 0; i < count; i += 8) {
    double product = 1;
    for (int j = i; j < count && j < i + 8; ++j) product *= p[j];
    total -= std::log(product);
  }
  return total;
}

// Turns a block's products (contexts, targets) into errors; returns the loss if it is wanted.
template <class A, class B>
inline double errors_of(const WindowRows<A, B>& w, int first, int targets, float* e,
                        bool want_loss) {
  const int count = w.contexts * targets;
  uint32_t block = 0;
  for (int j = 0; j < targets; ++j) block |= uint32_t{w.labels[first + j]} << j;
  // The labels of as many contexts as begin in one vector, or of one where it is longer.
  double loss = 0;
  const Vf lr(w.lr);
  int phase = 0;  // the target that lane 0 stands for
  for (int p = 0; p < count; p += kLanes) {
    uint64_t labels = 0;
    for (int at = -phase; at < kLanes; at += targets)
      labels |= at < 0 ? uint64_t{block} >> -at : uint64_t{block} << at;
    phase = (phase + kLanes) % targets;
    const Vf z = load(e + p);
    if (want_loss) {
      float probability[kLanes];
      store(probability,
            sigmoid(Vf(where_bits(labels, z, 0.0f)) - Vf(where_bits(~labels, z, 0.0f))));
      if (!w.context_weights) {
        loss += minus_log(probability, count - p < kLanes ? count - p : kLanes);
      } else {
        for (int i = p; i < count && i < p + kLanes; ++i)
          loss += minus_log(probability + (i - p), 1) * w.context_weights[i / targets] *
                  w.target_weights[first + i % targets];
      }
    }
    store(e + p, lr * (where_bits(labels, Vf(1.0f), 0.0f) - sigmoid(z)));
  }
  if (w.context_weights)
    for (int i = 0; i < w.contexts; ++i)
      for (int j = 0; j < targets; ++j)
        e[i * targets + j] *= w.context_weights[i] * w.target_weights[first + j];
  return loss;
}

// Adds the contexts' steps to `gradients` and makes the targets' steps.
template <class A, class B>
inline double add_window(const WindowRows<A, B>& w, float* const* gradients, float* errors,
                         bool want_loss) {
  const int blocks = (w.targets + kBlockTargets - 1) / kBlockTargets;
  double loss = 0;
  // All products before the first change of a row.
  float* e = errors;
  for (int block = 0, j = 0; block < blocks; ++block) {
    const int n = (w.targets - j + blocks - block - 1) / (blocks - block);
    block_kernels<A, B>(n).products(w.a, w.contexts, w.b + j, w.dim, e);
    loss += errors_of(w, j, n, e, want_loss);
    e += w.contexts * n;
    j += n;
  }
  e = errors;
  for (int block = 0, j = 0; block < blocks; ++block) {
    const int n = (w.targets - j + blocks - block - 1) / (blocks - block);
    block_kernels<A, B>(n).add_gradients(w.a, w.contexts, gradients, w.b + j, e, w.dim);
    e += w.contexts * n;
    j += n;
  }
  return loss;
}

// row += scale * step
template <class S>
inline void add_to_row(S* row, const float* step, float scale, int64_t dim) {
  const Vf factor(scale);
  for_each_chunk(dim, [&](int64_t k, auto chunk) __attribute__((always_inline)) {
    chunk.store(row + k, chunk.load(row + k) + factor * chunk.load(step + k));
  });
}

inline void clear_row(float* row, int64_t dim) {
  for_each_chunk(dim, [&](int64_t k, auto chunk)
                          __attribute__((always_inline)) { chunk.store(row + k, Vf(0.0f)); });
}

// Makes the step of a window in place; returns its loss if it is wanted.
template <class A, class B>
inline double update_window(const WindowRows<A, B>& w, const WindowScratch& scratch,
                            bool want_loss) {
  if (w.targets <= kBlockTargets) {
    if (w.targets == 0 || w.contexts == 0) return 0;
    const BlockKernels<A, B> kernels = block_kernels<A, B>(w.targets);
    kernels.products(w.a, w.contexts, w.b, w.dim, scratch.errors);
    const double loss = errors_of(w, 0, w.targets, scratch.errors, want_loss);
    kernels.update(w.a, w.contexts, nullptr, w.b, scratch.errors, w.dim);
    return loss;
  }
  for (int i = 0; i < w.contexts; ++i) clear_row(scratch.gradient_rows[i], w.dim);
  const double loss = add_window(w, scratch.gradient_rows, scratch.errors, want_loss);
  for (int i = 0; i < w.contexts; ++i) add_to_row(w.a[i], scratch.gradient_rows[i], 1.0f, w.dim);
  return loss;
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
