// What nvcc has instructions for: conversions between float and the shorter formats.
#include <cstring>

#include "../emulator.h"

namespace seqkern::emulator {
namespace {

uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}

float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

bool is_nan(uint32_t bits) {
  return (bits & 0x7fffffff) > 0x7f800000;
}

}  // namespace

float float16_to_float(uint16_t half) {
  const uint32_t sign = uint32_t{half} >> 15 << 31;
  const uint32_t exponent = half >> 10 & 0x1f, mantissa = half & 0x3ff;
  if (exponent == 0x1f) {  // infinity; a NaN becomes a quiet one
    return float_of(sign | 0x7f800000 | mantissa << 13 | (mantissa ? 0x400000 : 0));
  }
  if (exponent == 0) {  // zero and subnormal numbers: mantissa * 2^-24
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return float_of(sign | bits_of(magnitude));
  }
  return float_of(sign | (exponent + 112) << 23 | mantissa << 13);
}

uint16_t float_to_float16(float x) {
  const uint32_t bits = bits_of(x), sign = bits >> 31 << 15, magnitude = bits & 0x7fffffff;
  if (is_nan(bits)) return 0x7fff;                    // what cvt.rn.f16.f32 makes of every NaN
  if (magnitude >= 0x47800000) return sign | 0x7c00;  // 2^16 and more: infinity
  if (magnitude < 0x38800000) {                       // below 2^-14: a multiple of 2^-24
    // Adding 0.5 puts the unit of the last place of a float at 2^-24 and so rounds there.
    return sign | (bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f));
  }
  const uint32_t odd = magnitude >> 13 & 1;
  // May carry into the exponent, up to infinity: that is how rounding up works.
  return sign | ((magnitude + 0xfff + odd - (112u << 23)) >> 13);
}

uint16_t float_to_bfloat16(float x) {
  const uint32_t bits = bits_of(x);
  if (is_nan(bits)) return 0x7fff;  // what cvt.rn.bf16.f32 makes of every NaN
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

uint32_t float_to_tf32(float x) {
  const uint32_t bits = bits_of(x);
  if ((bits & 0x7f800000) == 0x7f800000) return is_nan(bits) ? 0x7fffffff : bits;
  return (bits + 0x1000) & ~uint32_t{0x1fff};
}

}  // namespace seqkern::emulator
