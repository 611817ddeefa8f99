// The loss of an example and its derivatives while its rows lie in L1 (compiled per
// ISA level).
#pragma once

#include "embedding/cpu/objective_rows.h"

extern "C" double log(double);  // <cmath> would bring inline functions, which must not meet others'
extern "C" double log1p(double);
extern "C" double exp(double);

namespace seqkern {
namespace SEQKERN_ISA {

// scores[t] = rows[t] . hidden for kRows rows: hidden is loaded once for all of them.
template <int kRows, class S>
inline void dot_rows(const compute_t<S>* hidden, const S* const* rows, int64_t dim,
                     compute_t<S>* scores) {
  using T = compute_t<S>;
  constexpr int kLanes = Vec<T>::kLanes;
  Vec<T> sums[kRows];
  for (int t = 0; t < kRows; ++t) sums[t] = Vec<T>(T(0));
  int64_t at = 0;
  for (; at + kLanes < dim; at += kLanes) {
    const Vec<T> h = load(hidden + at);
    for (int t = 0; t < kRows; ++t) sums[t] += h * load(rows[t] + at);
  }
  const int last = static_cast<int>(dim - at);
  if (last > 0) {
    const Vec<T> h = load_part(hidden + at, last);
    for (int t = 0; t < kRows; ++t) sums[t] += h * load_part(rows[t] + at, last);
  }
  for (int t = 0; t < kRows; ++t) scores[t] = sum(sums[t]);
}

template <class S>
inline void dot_all(const compute_t<S>* hidden, const S* const* rows, int64_t count, int64_t dim,
                    compute_t<S>* scores) {
  for (int64_t t = 0; t < count; t += 8) {
    switch (smaller(count - t, int64_t(8))) {
#define SEQKERN_ROWS(n)                                \
  case n:                                              \
    dot_rows<n, S>(hidden, rows + t, dim, scores + t); \
    break;
      SEQKERN_ROWS(1)
      SEQKERN_ROWS(2)
      SEQKERN_ROWS(3)
      SEQKERN_ROWS(4)
      SEQKERN_ROWS(5)
      SEQKERN_ROWS(6)
      SEQKERN_ROWS(7)
      SEQKERN_ROWS(8)
#undef SEQKERN_ROWS
    }
  }
}

// x[t] = sign * score of `count` terms: x[t] becomes the derivative of the loss for the score, and
// the sum of -log sigma(x[t]) = max(-x, 0) + log(1 + exp(-|x|)) comes back.
// A product of up to 512 factors between 1 and 2 has one logarithm instead of 512.
inline double losses(float* x, const float* signs, int64_t count) {
  constexpr int kLanes = Vec<float>::kLanes, kFactors = 512;
  double linear = 0, product = 1, logarithms = 0;
  int factors = 0;
  for (int64_t t = 0; t < count; t += kLanes) {
    const int width = static_cast<int>(smaller(count - t, int64_t(kLanes)));
    const Vec<float> value = load(x + t), sign = load(signs + t);
    Raw<float>::integers unused;
    const Vec<float> magnitude_ = magnitude(value, unused);
    const ReducedExponent<float> e =
        reduce_exponent(at_least(-ExpConstants<float>::kMaxExp, 0 - magnitude_));
    float powers[kLanes], negative_parts[kLanes];
    store(powers, times_power_of_two(1 + e.r * e.expm1_over_r, e.n));
    store(negative_parts, relu(0 - value));
    for (int i = 0; i < width; ++i) {
      linear += negative_parts[i];
      product *= 1.0 + powers[i];
    }
    factors += width;
    if (factors + kLanes > kFactors) {
      logarithms += log(product);
      product = 1;
      factors = 0;
    }
    // sigmoid never quite reaches 0; of an infinite score it is 0, as in the reference.
    const Vec<float>::raw zero = {}, greatest = Vec<float>(3.40282347e38f).v;
    const Vec<float> slope = (0 - sign) * sigmoid(0 - value);
    store(x + t, Vec<float>(Vec<float>::raw(value.v > greatest ? zero : slope.v)));
  }
  return linear + logarithms + log(product);
}

inline double losses(double* x, const double* signs, int64_t count) {
  double total = 0;
  for (int64_t t = 0; t < count; ++t) {
    const double small = exp(x[t] < 0 ? x[t] : -x[t]);
    total += (x[t] < 0 ? -x[t] : 0.0) + log1p(small);
    x[t] = -signs[t] * (x[t] < 0 ? 1.0 : small) / (1.0 + small);
  }
  return total;
}

// Scratch of a callback: the rows that an example reads, and numbers of its terms.
template <class S>
struct ExampleScratch {
  using T = compute_t<S>;

  const S** rows;
  T *values, *signs, *hidden;
  int64_t* columns;

  static int64_t padded_terms(const ObjectiveCall& call) {
    return round_up(call.terms + 1, kLineBytes);
  }
  static int64_t bytes(const ObjectiveCall& call) {
    const int64_t most = larger(padded_terms(call), call.inputs_each);
    return round_up(most * 2 * 8 + (2 * padded_terms(call) + call.dim) * int64_t(sizeof(T)),
                    kLineBytes);
  }
  ExampleScratch(const ObjectiveCall& call, char* memory) {
    const int64_t most = larger(padded_terms(call), call.inputs_each);
    rows = reinterpret_cast<const S**>(memory);
    columns = reinterpret_cast<int64_t*>(memory) + most;
    values = reinterpret_cast<T*>(memory + most * 2 * 8);
    signs = values + padded_terms(call);
    hidden = signs + padded_terms(call);
    for (int64_t t = 0; t < padded_terms(call); ++t) values[t] = signs[t] = T(0);
  }
};

template <class S>
int64_t objective_scratch_bytes(const ObjectiveCall& call) {
  return ExampleScratch<S>::bytes(call);
}

// The input rows of example e that exist, and how many there are.
template <class S>
inline int64_t input_rows(const ObjectiveCall& call, int64_t e, const S** rows) {
  const int64_t* words = call.inputs + e * call.inputs_each;
  int64_t count = 0;
  for (int64_t i = 0; i < call.inputs_each; ++i)
    if (words[i] != call.padding_idx)
      rows[count++] = static_cast<const S*>(call.in_weight) + words[i] * call.in_stride;
  return count;
}

// The output rows of example e that exist, their signs (1 for a label of 1, else -1) and columns.
template <class S>
inline int64_t term_rows(const ObjectiveCall& call, int64_t e, ExampleScratch<S>& scratch) {
  using T = compute_t<S>;
  const S* table = static_cast<const S*>(call.out_weight);
  const int64_t target = call.targets[e];
  int64_t count = 0;
  const auto add = [&](int64_t row, bool label, int64_t column) {
    scratch.rows[count] = table + row * call.out_stride;
    scratch.signs[count] = label ? T(1) : T(-1);
    scratch.columns[count++] = column;
  };
  if (!call.offsets) {
    add(target, true, 0);
    const int64_t* negatives = call.negatives + e * (call.terms - 1);
    for (int64_t k = 0; k < call.terms - 1; ++k)
      if (negatives[k] != call.padding_idx) add(negatives[k], false, k + 1);
  } else {
    const int64_t first = call.offsets[target];
    for (int64_t place = first; place < call.offsets[target + 1]; ++place)
      add(call.nodes[place], call.codes[place] == 0, place - first);
  }
  return count;
}

template <class S>
inline void prefetch_example(const ObjectiveCall& call, int64_t e) {
  const S* in = static_cast<const S*>(call.in_weight);
  const S* out = static_cast<const S*>(call.out_weight);
  for (int64_t i = 0; i < call.inputs_each; ++i) {
    const int64_t word = call.inputs[e * call.inputs_each + i];
    if (word != call.padding_idx) prefetch_row(in + word * call.in_stride, call.dim);
  }
  const int64_t target = call.targets[e];
  if (target == call.padding_idx) return;
  if (call.offsets) {  // the nodes near the root are in the cache: the last ones of the path
    const int64_t end = call.offsets[target + 1];
    for (int64_t place = larger(call.offsets[target], end - 8); place < end; ++place)
      prefetch_row(out + call.nodes[place] * call.out_stride, call.dim);
    return;
  }
  prefetch_row(out + target * call.out_stride, call.dim);
  for (int64_t k = 0; k < call.terms - 1; ++k) {
    const int64_t word = call.negatives[e * (call.terms - 1) + k];
    if (word != call.padding_idx) prefetch_row(out + word * call.out_stride, call.dim);
  }
}

template <class S>
double objective_examples(const ObjectiveCall& call, int64_t begin, int64_t end, char* memory) {
  using T = compute_t<S>;
  constexpr int64_t kAhead = 3;
  ExampleScratch<S> scratch(call, memory);
  double total = 0;
  for (int64_t e = begin; e < end; ++e) {
    if (e + kAhead < end) prefetch_example<S>(call, e + kAhead);
    T* hidden = call.hidden ? static_cast<T*>(call.hidden) + e * call.dim : scratch.hidden;
    T* grad = call.grad_inputs ? static_cast<T*>(call.grad_inputs) + e * call.dim : nullptr;
    T* coefficients =
        call.coefficients ? static_cast<T*>(call.coefficients) + e * call.terms : nullptr;
    const int64_t inputs = input_rows<S>(call, e, scratch.rows);
    const bool counts = inputs > 0 && call.targets[e] != call.padding_idx;
    const T scale = call.mean && inputs > 1 ? T(1) / static_cast<T>(inputs) : T(1);
    const auto row_at = [&](int64_t i, const S*& row, T& weight) {
      row = scratch.rows[i];
      weight = T(1);
    };
    sum_rows<S>(call.dim, counts ? inputs : 0, row_at, [&](int64_t offset, Vec<T> sum, int width) {
      store_part(hidden + offset, Vec<T>(scale) * sum, width);
    });

    const int64_t count = counts ? term_rows<S>(call, e, scratch) : 0;
    dot_all<S>(hidden, scratch.rows, count, call.dim, scratch.values);
    for (int64_t t = 0; t < count; ++t) scratch.values[t] *= scratch.signs[t];
    total += losses(scratch.values, scratch.signs, count);

    if (coefficients) {
      for (int64_t t = 0; t < call.terms; ++t) coefficients[t] = T(0);
      for (int64_t t = 0; t < count; ++t) coefficients[scratch.columns[t]] = scratch.values[t];
    }
    if (!grad) continue;
    const auto term_at = [&](int64_t t, const S*& row, T& weight) {
      row = scratch.rows[t];
      weight = scratch.values[t];
    };
    sum_rows<S>(call.dim, count, term_at, [&](int64_t offset, Vec<T> sum, int width) {
      store_part(grad + offset, Vec<T>(scale) * sum, width);
    });
  }
  return total;
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
