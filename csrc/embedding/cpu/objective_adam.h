// SparseAdam's step for the rows that have a gradient (compiled per ISA level).
#pragma once

#include "embedding/cpu/objective_rows.h"

namespace seqkern {
namespace SEQKERN_ISA {

inline Vec<float> square_root(Vec<float> x) {
#if defined(__AVX512F__)
  return Vec<float>::raw(_mm512_sqrt_ps(x.v));
#elif defined(__AVX2__)
  return Vec<float>::raw(_mm256_sqrt_ps(x.v));
#else
  for (int i = 0; i < Vec<float>::kLanes; ++i) x.v[i] = __builtin_sqrtf(x.v[i]);
  return x;
#endif
}
inline Vec<double> square_root(Vec<double> x) {
#if defined(__AVX512F__)
  return Vec<double>::raw(_mm512_sqrt_pd(x.v));
#elif defined(__AVX2__)
  return Vec<double>::raw(_mm256_sqrt_pd(x.v));
#else
  for (int i = 0; i < Vec<double>::kLanes; ++i) x.v[i] = __builtin_sqrt(x.v[i]);
  return x;
#endif
}

template <class S>
void adam_rows(const AdamCall& call, int64_t begin, int64_t end) {
  using T = compute_t<S>;
  constexpr int kLanes = Vec<T>::kLanes;
  constexpr int64_t kAhead = 2;
  const Vec<T> new_share(static_cast<T>(1 - call.beta1));
  const Vec<T> new_square_share(static_cast<T>(1 - call.beta2));
  const Vec<T> eps(static_cast<T>(call.eps)), step_size(static_cast<T>(call.step_size));
  for (int64_t i = begin; i < end; ++i) {
    const int64_t at = call.rows[i] * call.dim;
    S* weight = static_cast<S*>(call.weight) + at;
    S* mean = static_cast<S*>(call.mean) + at;
    S* square = static_cast<S*>(call.square) + at;
    const S* gradient = static_cast<const S*>(call.gradient) + i * call.dim;
    if (i + kAhead < end) {
      const int64_t ahead = (call.rows[i + kAhead] - call.rows[i]) * call.dim;
      prefetch_row(weight + ahead, call.dim);
      prefetch_row(mean + ahead, call.dim);
      prefetch_row(square + ahead, call.dim);
    }
    for (int64_t k = 0; k < call.dim; k += kLanes) {
      const int width = static_cast<int>(smaller(call.dim - k, int64_t(kLanes)));
      const Vec<T> g = load_part(gradient + k, width);
      const Vec<T> m = load_part(mean + k, width), v = load_part(square + k, width);
      const Vec<T> new_m = m + (g - m) * new_share;
      const Vec<T> new_v = v + (g * g - v) * new_square_share;
      store_part(mean + k, new_m, width);
      store_part(square + k, new_v, width);
      const Vec<T> w = load_part(weight + k, width);
      store_part(weight + k, w - step_size * (new_m / (square_root(new_v) + eps)), width);
    }
  }
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
