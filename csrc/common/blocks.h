// Small tools of kernels that work block by block (compiled per ISA level).
#pragma once

#include "common/ceil_div.h"
#include "common/simd.h"

namespace seqkern {
namespace SEQKERN_ISA {

constexpr int64_t kLineBytes = 64;

template <class T>
constexpr T smaller(T a, T b) {
  return a < b ? a : b;
}

template <class T>
constexpr T larger(T a, T b) {
  return a < b ? b : a;
}

inline float widen(float x) {
  return x;
}
inline double widen(double x) {
  return x;
}
inline float widen(bfloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// Four lanes of two vectors of four. Clang has the first form, GCC before version 12 only the
// second.
#if defined(__clang__)
#define SEQKERN_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SEQKERN_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, row{__VA_ARGS__})
#endif

// Transposes a 4 x 4 block of 32-bit lanes: to[i * to_stride + j] = from[j * from_stride + i].
inline void transpose_4x4(const void* from, int64_t from_stride, void* to, int64_t to_stride) {
  typedef uint32_t row __attribute__((vector_size(16)));
  const char* source = static_cast<const char*>(from);
  char* target = static_cast<char*>(to);
  row a, b, c, d;
  std::memcpy(&a, source, 16);
  std::memcpy(&b, source + 4 * from_stride, 16);
  std::memcpy(&c, source + 8 * from_stride, 16);
  std::memcpy(&d, source + 12 * from_stride, 16);
  const row ab_low = SEQKERN_SHUFFLE(a, b, 0, 4, 1, 5), ab_high = SEQKERN_SHUFFLE(a, b, 2, 6, 3, 7);
  const row cd_low = SEQKERN_SHUFFLE(c, d, 0, 4, 1, 5), cd_high = SEQKERN_SHUFFLE(c, d, 2, 6, 3, 7);
  const row out[4] = {
      SEQKERN_SHUFFLE(ab_low, cd_low, 0, 1, 4, 5), SEQKERN_SHUFFLE(ab_low, cd_low, 2, 3, 6, 7),
      SEQKERN_SHUFFLE(ab_high, cd_high, 0, 1, 4, 5), SEQKERN_SHUFFLE(ab_high, cd_high, 2, 3, 6, 7)};
  for (int i = 0; i < 4; ++i) std::memcpy(target + 4 * i * to_stride, &out[i], 16);
}

// Transposes 32-bit lanes: to[c * to_stride + r] = from[r * from_stride + c] for r < rows and
// c < columns, both multiples of 4.
__attribute__((noinline)) inline void transpose(const void* from, int64_t from_stride, int64_t rows,
                                                int64_t columns, void* to, int64_t to_stride) {
  const uint32_t* source = static_cast<const uint32_t*>(from);
  uint32_t* target = static_cast<uint32_t*>(to);
  int64_t r = 0;
#if defined(__AVX512F__)
  // Four columns of sixteen rows: lane i of a vector holds row i * 4 + k, so that 4 x 4 transposes
  // within the lanes give whole rows of the result.
  for (; r + 16 <= rows; r += 16)
    for (int64_t c = 0; c < columns; c += 4) {
      __m512i row[4];
      for (int k = 0; k < 4; ++k) {
        const auto quarter = [&](int i) __attribute__((always_inline)) {
          return _mm_loadu_si128(
              reinterpret_cast<const __m128i*>(source + (r + 4 * i + k) * from_stride + c));
        };
        row[k] = _mm512_castsi128_si512(quarter(0));
        row[k] = _mm512_inserti32x4(row[k], quarter(1), 1);
        row[k] = _mm512_inserti32x4(row[k], quarter(2), 2);
        row[k] = _mm512_inserti32x4(row[k], quarter(3), 3);
      }
      const __m512i a = _mm512_unpacklo_epi32(row[0], row[1]);
      const __m512i b = _mm512_unpackhi_epi32(row[0], row[1]);
      const __m512i d = _mm512_unpacklo_epi32(row[2], row[3]);
      const __m512i e = _mm512_unpackhi_epi32(row[2], row[3]);
      const __m512i out[4] = {_mm512_unpacklo_epi64(a, d), _mm512_unpackhi_epi64(a, d),
                              _mm512_unpacklo_epi64(b, e), _mm512_unpackhi_epi64(b, e)};
      for (int i = 0; i < 4; ++i) std::memcpy(target + (c + i) * to_stride + r, &out[i], 64);
    }
#endif
  for (; r < rows; r += 4)
    for (int64_t c = 0; c < columns; c += 4)
      transpose_4x4(source + r * from_stride + c, from_stride, target + c * to_stride + r,
                    to_stride);
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
