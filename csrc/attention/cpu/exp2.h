// 2^x for the softmax: arguments are at most a little above zero.
#pragma once

#include "common/simd.h"

namespace seqkern {
namespace SEQKERN_ISA {

#if defined(__AVX512F__)

// Within 2e-7 of the true value, relative; 0 below -126. VREDUCEPS gives x - floor(x) and VSCALEFPS
// multiplies by 2^floor(x), infinities and NaN included. The polynomial is the minimax one of
// degree 5 for the relative error on [0, 1] with the value 1 at 0 (within 8.3e-8).
inline Vec<float> exp2_(Vec<float> x) {
  constexpr int kRoundDown = 1;  // and keep no fraction bits
  const Vec<float> r = Vec<float>::raw(_mm512_reduce_ps(x.v, kRoundDown));
  Vec<float> p = r * Vec<float>(0.00186713005f) + Vec<float>(0.00901703071f);
  p = p * r + Vec<float>(0.0557999127f);
  p = p * r + Vec<float>(0.240164444f);
  p = p * r + Vec<float>(0.693151295f);
  p = p * r + Vec<float>(1.0f);
  return Vec<float>::raw(_mm512_scalef_ps(p.v, x.v));
}

// Within 9e-5 (degree 3, 1 at 0): for probabilities that are rounded to bfloat16 (2e-3) anyway.
inline Vec<float> exp2_for_bf16(Vec<float> x) {
  const Vec<float> r = Vec<float>::raw(_mm512_reduce_ps(x.v, 1));
  Vec<float> p = r * Vec<float>(0.0770670399f) + Vec<float>(0.227644995f);
  p = p * r + Vec<float>(0.695116758f);
  p = p * r + Vec<float>(1.0f);
  return Vec<float>::raw(_mm512_scalef_ps(p.v, x.v));
}

#else

// Within 2e-7, too; the polynomial is the minimax one of degree 6 on [-1/2, 1/2] with the value 1
// at 0 (within 2.6e-9).
inline Vec<float> exp2_(Vec<float> x) {
  constexpr float kLeast = -126.0f, kShift = ExpConstants<float>::kShift;
  const Vec<float> y = clamp(x, kLeast, 127.0f);
  const Vec<float> n = (y + Vec<float>(kShift)) - Vec<float>(kShift);
  const Vec<float> r = y - n;
  Vec<float> p = r * Vec<float>(0.000155946778f) + Vec<float>(0.00134066434f);
  p = p * r + Vec<float>(0.00961769279f);
  p = p * r + Vec<float>(0.0555031039f);
  p = p * r + Vec<float>(0.240226522f);
  p = p * r + Vec<float>(0.693147242f);
  p = p * r + Vec<float>(1.0f);
  const Vec<float> power = times_power_of_two(p, n);
  return Vec<float>::raw(x.v < Vec<float>(kLeast).v ? Vec<float>(0.0f).v : power.v);
}

#endif

// By exp's polynomial, within 1e-15.
inline Vec<double> exp2_(Vec<double> x) {
  constexpr double kLeast = -1000.0;
  const ReducedExponent<double> e =
      reduce_exponent(clamp(x, kLeast, 1000.0) * Vec<double>(0.693147180559945309417));
  const Vec<double> power = times_power_of_two(1 + e.r * e.expm1_over_r, e.n);
  return Vec<double>::raw(x.v < Vec<double>(kLeast).v ? Vec<double>(0.0).v : power.v);
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
