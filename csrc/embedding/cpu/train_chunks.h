// What a window's small products need beyond common/simd.h: rows in chunks of a vector, the last of
// which may be a part of one, and many horizontal sums at once.
#pragma once

#include "common/ceil_div.h"
#include "common/simd.h"

namespace seqkern {
namespace SEQKERN_ISA {

using Vf = Vec<float>;
constexpr int kLanes = Vf::kLanes;

// A chunk of a row: a whole vector, or its first lanes at the row's end. Lanes beyond read as zero.
struct Whole {
  template <class S>
  Vf load(const S* p) const {
    return SEQKERN_ISA::load(p);
  }
  template <class S>
  void store(S* p, Vf x) const {
    SEQKERN_ISA::store(p, x);
  }
};

struct First {
  int count;

  template <class S>
  Vf load(const S* p) const {
    return load_lanes(p, count);
  }
  template <class S>
  void store(S* p, Vf x) const {
    store_lanes(p, x, count);
  }
};

// 1 / (1 + exp(-x)) within 1e-6, with fewer and shorter steps than sigmoid(): nothing else happens
// until the errors of a window are there. 2^t = 2^n 2^f, n the nearest integer; the polynomial of
// 2^f, |f| <= 1/2, is the minimax one for relative error, within 1e-7.
inline Vf quick_sigmoid(Vf x) {
#if defined(__AVX512F__)
  const Vf t = clamp(x * Vf(-1.44269504f), -126.0f, 126.0f);
  const Vf n = Vf::raw(_mm512_roundscale_ps(t.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  const Vf f = t - n, f2 = f * f;
  const Vf low = Vf(1.0f) + f * Vf(0.69314698f);
  const Vf middle = Vf(0.24022242f) + f * Vf(0.05550734f);
  const Vf high = Vf(0.00967151f) + f * Vf(0.00132647f);
  return reciprocal(1 + times_power_of_two(low + f2 * (middle + f2 * high), n));
#else
  return sigmoid(x);
#endif
}

// Runs body(k, chunk) for the chunks of a row of `dim` elements.
template <class Body>
__attribute__((always_inline)) inline void for_each_chunk(int64_t dim, const Body& body) {
  int64_t k = 0;
  for (; k + kLanes <= dim; k += kLanes) body(k, Whole());
  if (k < dim) body(k, First{static_cast<int>(dim - k)});
}

// ---- horizontal sums of many vectors: a transposition in which every step adds ----

#if defined(__x86_64__)

// In each group of four lanes: x0 + x1, x2 + x3, y0 + y1, y2 + y3.
inline Vf add_pairs(Vf x, Vf y) {
#if defined(__AVX512F__)
  return Vf(Vf::raw(_mm512_shuffle_ps(x.v, y.v, 0x88))) +
         Vf(Vf::raw(_mm512_shuffle_ps(x.v, y.v, 0xdd)));
#elif defined(__AVX2__)
  return Vf(Vf::raw(_mm256_shuffle_ps(x.v, y.v, 0x88))) +
         Vf(Vf::raw(_mm256_shuffle_ps(x.v, y.v, 0xdd)));
#else
  return Vf(Vf::raw(_mm_shuffle_ps(x.v, y.v, 0x88))) + Vf(Vf::raw(_mm_shuffle_ps(x.v, y.v, 0xdd)));
#endif
}

#if defined(__AVX2__)
// The same with groups of four lanes in the place of lanes; a vector of two groups gives one.
inline Vf add_groups(Vf x, Vf y) {
#if defined(__AVX512F__)
  return Vf(Vf::raw(_mm512_shuffle_f32x4(x.v, y.v, 0x88))) +
         Vf(Vf::raw(_mm512_shuffle_f32x4(x.v, y.v, 0xdd)));
#else
  return Vf(Vf::raw(_mm256_permute2f128_ps(x.v, y.v, 0x20))) +
         Vf(Vf::raw(_mm256_permute2f128_ps(x.v, y.v, 0x31)));
#endif
}
#endif

// Lane i: the sum of x[i], for i < kCount <= kLanes; the other lanes hold something.
template <int kCount>
inline Vf horizontal_sums(const Vf* x) {
  constexpr int kGroups = ceil_div(kCount, 4);  // of four lanes in the result
  constexpr int kColumns = kCount < 4 ? kCount : 4;
  Vf column[4] = {Vf(0.0f), Vf(0.0f), Vf(0.0f), Vf(0.0f)};
  // Column c brings together the vectors c, 4 + c, 8 + c, 12 + c, whose sums end in lane c of the
  // groups. Groups that the result does not need are added up at the end instead.
#pragma GCC unroll 4
  for (int c = 0; c < kColumns; ++c) {
    Vf part[4];
#pragma GCC unroll 4
    for (int g = 0; g < kGroups; ++g) part[g] = x[4 * g + c < kCount ? 4 * g + c : c];
    if constexpr (kGroups == 1) {
      column[c] = part[0];
    }
#if defined(__AVX2__)
    if constexpr (kGroups == 2) column[c] = add_groups(part[0], part[1]);
    if constexpr (kGroups >= 3)
      column[c] =
          add_groups(add_groups(part[0], part[1]), add_groups(part[2], part[kGroups == 4 ? 3 : 2]));
#endif
  }
  Vf sums = add_pairs(add_pairs(column[0], column[1]), add_pairs(column[2], column[3]));
#if defined(__AVX2__)
  if constexpr (kLanes == 16 && kGroups <= 2) sums = add_groups(sums, sums);
  if constexpr (kGroups == 1) sums = add_groups(sums, sums);
#endif
  return sums;
}

#else

template <int kCount>
inline Vf horizontal_sums(const Vf* x) {
  Vf sums(0.0f);
  for (int i = 0; i < kCount; ++i) sums.v[i] = sum(x[i]);
  return sums;
}

#endif

}  // namespace SEQKERN_ISA
}  // namespace seqkern
