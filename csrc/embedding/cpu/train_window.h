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
#include <type_traits>
#include <utility>

#include "embedding/cpu/train_chunks.h"

namespace seqkern {
namespace SEQKERN_ISA {

// Targets of one block: a chunk of each, its sum, and a context's chunk and sum fill the registers.
constexpr int kBlockTargets = kVectorRegisters == 32 ? 12 : 6;
constexpr int kTileAccumulators = kVectorRegisters == 32 ? 24 : 12;
constexpr int kTileContexts = 4;

template <int kValue>
using Count = std::integral_constant<int, kValue>;

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
  float* products;        // C * kBlockTargets + kErrorSlack; null: no loss is wanted
  float* gradients;       // (C, dim): used where there is more than one block of targets
  float** gradient_rows;  // C
};
constexpr int kErrorSlack = 64;

// What makes errors of products, for one block of targets.
struct ErrorRule {
  uint32_t labels;  // bit j: of target j
  float lr;
};

// x where bit i of `labels` is set, else -x: what the objective takes sigma of.
inline Vf agreement(uint32_t labels, Vf x) {
  return Vf(where_bits(labels, x, 0.0f)) - Vf(where_bits(~labels, x, 0.0f));
}

// The errors of kM contexts and kN targets into out[i * kN + j], and their products into `products`
// unless it is null; up to a vector behind them may be written, too.
template <int kM, int kN, class A, class B>
inline void tile_errors(A* const* a, B* const* b, int64_t dim, ErrorRule rule, float* out,
                        float* products) {
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
  constexpr int kCount = kM * kN, kVectors = ceil_div(kCount, kLanes);
  // The labels repeat from context to context.
  uint64_t labels = 0;
#pragma GCC unroll 4
  for (int i = 0; i < kM; ++i) labels |= uint64_t{rule.labels} << (i * kN);
  const Vf lr(rule.lr);
  const auto finish = [&](int v, Vf z) __attribute__((always_inline)) {
    if (products) SEQKERN_ISA::store(products + v * kLanes, z);
    const Vf label = where_bits(labels >> (v * kLanes), lr, 0.0f);
    SEQKERN_ISA::store(out + v * kLanes, label - lr * quick_sigmoid(z));
  };
#pragma GCC unroll 8
  for (int v = 0; v < kCount / kLanes; ++v) finish(v, horizontal_sums<kLanes>(sums + v * kLanes));
  if constexpr (kCount % kLanes != 0)
    finish(kVectors - 1, horizontal_sums<kCount % kLanes>(sums + (kVectors - 1) * kLanes));
}

template <int kN, class A, class B>
void errors(A* const* a, int contexts, B* const* b, int64_t dim, ErrorRule rule, float* out,
            float* products) {
  constexpr int kFit = kTileAccumulators / kN;
  constexpr int kMost = kFit < kTileContexts ? kFit : kTileContexts;
  const int tiles = ceil_div(contexts, kMost);
  const auto tile = [&](int i, auto m) __attribute__((always_inline)) {
    tile_errors<decltype(m)::value, kN>(a + i, b, dim, rule, out + i * kN,
                                        products ? products + i * kN : nullptr);
  };
  for (int t = 0, i = 0; t < tiles; ++t) {
    const int m = ceil_div(contexts - i, tiles - t);  // as equal as can be
    if (m == 1) tile(i, Count<1>());
    if constexpr (kMost >= 2)
      if (m == 2) tile(i, Count<2>());
    if constexpr (kMost >= 3)
      if (m == 3) tile(i, Count<3>());
    if constexpr (kMost >= 4)
      if (m == 4) tile(i, Count<4>());
    i += m;
  }
}

// Adds what the errors e (contexts, kN) make of each row: to the targets in place, to the contexts
// as well if kInPlace, else to the rows of `gradients`.
template <int kN, bool kInPlace, class A, class B>
void update_rows(A* const* a, int contexts, float* const* gradients, B* const* b, const float* e,
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

template <int kN, class A, class B>
void update(A* const* a, int contexts, B* const* b, const float* e, int64_t dim) {
  if constexpr (std::is_same_v<A, float>)
    update_rows<kN, false>(a, contexts, a, b, e, dim);  // the contexts may be the gradients
  else
    update_rows<kN, true>(a, contexts, nullptr, b, e, dim);
}

template <class A, class B>
struct BlockKernels {
  void (*errors)(A* const*, int, B* const*, int64_t, ErrorRule, float*, float*);
  void (*update)(A* const*, int, B* const*, const float*, int64_t);
  void (*add_gradients)(A* const*, int, float* const*, B* const*, const float*, int64_t);
};

template <class A, class B, int... kCounts>
constexpr BlockKernels<A, B> kernels_for(int targets, std::integer_sequence<int, kCounts...>) {
  constexpr BlockKernels<A, B> table[] = {{errors<kCounts + 1, A, B>, update<kCounts + 1, A, B>,
                                           update_rows<kCounts + 1, false, A, B>}...};
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

// The loss of a block's products (contexts, targets), which are overwritten.
template <class A, class B>
__attribute__((noinline)) double loss_of(const WindowRows<A, B>& w, int first, int targets,
                                         uint32_t labels, float* products) {
  const int count = w.contexts * targets;
  for (int i = 0; i < w.contexts; ++i)
    for (int j = 0; j < targets; ++j)
      if (!(labels >> j & 1)) products[i * targets + j] = -products[i * targets + j];
  for (int p = 0; p < count; p += kLanes) store(products + p, sigmoid(load(products + p)));
  if (!w.context_weights) return minus_log(products, count);
  double loss = 0;
  for (int i = 0; i < w.contexts; ++i)
    for (int j = 0; j < targets; ++j)
      loss += minus_log(products + i * targets + j, 1) * w.context_weights[i] *
              w.target_weights[first + j];
  return loss;
}

// The errors of a block of targets into e; returns the loss if it is wanted.
template <class A, class B>
inline double block_errors(const WindowRows<A, B>& w, int first, int targets,
                           const BlockKernels<A, B>& kernels, const WindowScratch& scratch,
                           float* e) {
  uint32_t labels = 0;
  for (int j = 0; j < targets; ++j) labels |= uint32_t{w.labels[first + j]} << j;
  kernels.errors(w.a, w.contexts, w.b + first, w.dim, {labels, w.lr}, e, scratch.products);
  if (w.context_weights)
    for (int i = 0; i < w.contexts; ++i)
      for (int j = 0; j < targets; ++j)
        e[i * targets + j] *= w.context_weights[i] * w.target_weights[first + j];
  return scratch.products ? loss_of(w, first, targets, labels, scratch.products) : 0;
}

// Adds the contexts' steps to `gradients` and makes the targets' steps; returns the loss if it is
// wanted.
template <class A, class B>
inline double add_window(const WindowRows<A, B>& w, float* const* gradients,
                         const WindowScratch& scratch) {
  const int blocks = ceil_div(w.targets, kBlockTargets);
  const auto for_each_block = [&](const auto& body) __attribute__((always_inline)) {
    float* e = scratch.errors;
    for (int block = 0, j = 0; block < blocks; ++block) {
      const int n = ceil_div(w.targets - j, blocks - block);
      body(j, n, block_kernels<A, B>(n), e);
      e += w.contexts * n;
      j += n;
    }
  };
  double loss = 0;
  // All products before the first change of a row.
  for_each_block([&](int j, int n, const BlockKernels<A, B>& kernels, float* e) {
    loss += block_errors(w, j, n, kernels, scratch, e);
  });
  for_each_block([&](int j, int, const BlockKernels<A, B>& kernels, const float* e) {
    kernels.add_gradients(w.a, w.contexts, gradients, w.b + j, e, w.dim);
  });
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
inline double update_window(const WindowRows<A, B>& w, const WindowScratch& scratch) {
  if (w.targets == 0 || w.contexts == 0) return 0;
  if (w.targets <= kBlockTargets) {
    const BlockKernels<A, B> kernels = block_kernels<A, B>(w.targets);
    const double loss = block_errors(w, 0, w.targets, kernels, scratch, scratch.errors);
    kernels.update(w.a, w.contexts, w.b, scratch.errors, w.dim);
    return loss;
  }
  for (int i = 0; i < w.contexts; ++i) clear_row(scratch.gradient_rows[i], w.dim);
  const double loss = add_window(w, scratch.gradient_rows, scratch);
  for (int i = 0; i < w.contexts; ++i) add_to_row(w.a[i], scratch.gradient_rows[i], 1.0f, w.dim);
  return loss;
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
