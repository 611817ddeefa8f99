// The storage types, and the way from and to the float that is computed in.
#pragma once

#include "common/device/memory.cuh"

namespace seqkern::device {

// Storage only: arithmetic happens in float.
struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

SEQKERN_DEVICE float to_float(float x) {
  return x;
}
SEQKERN_DEVICE double to_float(double x) {
  return x;
}
SEQKERN_DEVICE float to_float(bfloat16 x) {
  return bit_cast<float>(uint32_t{x.bits} << 16);
}

// from_float<S>(x) rounds to the nearest, ties to even; a NaN stays a NaN.
template <class S>
struct Rounded;

template <>
struct Rounded<float> {
  static SEQKERN_DEVICE float of(float x) { return x; }
};
template <>
struct Rounded<double> {
  static SEQKERN_DEVICE double of(double x) { return x; }
};

#ifdef __CUDACC__

SEQKERN_DEVICE float to_float(float16 x) {
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
  return wide;
}
template <>
struct Rounded<float16> {
  static SEQKERN_DEVICE float16 of(float x) {
    uint16_t bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return {bits};
  }
};
template <>
struct Rounded<bfloat16> {
  static SEQKERN_DEVICE bfloat16 of(float x) {
    uint16_t bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return {bits};
  }
};

// A float as the tensor cores read it for tf32: 10 bits of mantissa, ties away from zero (PTX ISA,
// "cvt": cvt.rna.tf32.f32).
SEQKERN_DEVICE uint32_t to_tf32(float x) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
}

// Two numbers in one register, the first in the low half.
SEQKERN_DEVICE uint32_t pack_pair(bfloat16*, float low, float high) {
  uint32_t bits;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}
SEQKERN_DEVICE uint32_t pack_pair(float16*, float low, float high) {
  uint32_t bits;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}

#else

SEQKERN_DEVICE float to_float(float16 x) {
  return emulator::float16_to_float(x.bits);
}
template <>
struct Rounded<float16> {
  static float16 of(float x) { return {emulator::float_to_float16(x)}; }
};
template <>
struct Rounded<bfloat16> {
  static bfloat16 of(float x) { return {emulator::float_to_bfloat16(x)}; }
};

SEQKERN_DEVICE uint32_t to_tf32(float x) {
  return emulator::float_to_tf32(x);
}

template <class S>
uint32_t pack_pair(S*, float low, float high) {
  return Rounded<S>::of(low).bits | uint32_t{Rounded<S>::of(high).bits} << 16;
}

#endif

// ---- what is the same for both ----

template <class S, class T>
SEQKERN_DEVICE S from_float(T x) {
  return Rounded<S>::of(x);
}

// pack<bfloat16>(a, b): two numbers in one register, the first in the low half; and back.
template <class S>
SEQKERN_DEVICE uint32_t pack(float low, float high) {
  return pack_pair(static_cast<S*>(nullptr), low, high);
}
template <class S>
SEQKERN_DEVICE float unpack_low(uint32_t pair) {
  return to_float(S{static_cast<uint16_t>(pair)});
}
template <class S>
SEQKERN_DEVICE float unpack_high(uint32_t pair) {
  return to_float(S{static_cast<uint16_t>(pair >> 16)});
}

// Memory as the float (double for double) that is computed in.
template <class S>
SEQKERN_DEVICE auto load(const S* p, Place place = here()) {
  return to_float(read(p, place));
}
template <class S, class T>
SEQKERN_DEVICE void store(S* p, T x, Place place = here()) {
  write(p, from_float<S>(x), place);
}

// `count` neighbours at once.
template <int count, class S>
SEQKERN_DEVICE void load_vector(float (&x)[count], const S* p, Place place = here()) {
  const Vector<S, count> values = read_vector<count>(p, place);
  for (int i = 0; i < count; ++i) x[i] = to_float(values[i]);
}
template <int count, class S>
SEQKERN_DEVICE void store_vector(S* p, const float (&x)[count], Place place = here()) {
  Vector<S, count> values;
  for (int i = 0; i < count; ++i) values[i] = from_float<S>(x[i]);
  write_vector(p, values, place);
}

}  // namespace seqkern::device
