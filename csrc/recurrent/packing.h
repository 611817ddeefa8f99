// The order in which a recurrent weight matrix is packed, shared by the code that packs and the
// products that read.
//
// A recurrent product is A (rows x K) times a matrix with K rows whose columns are kept in
// *blocks*: all gates of `kUnits` neighbouring hidden units stand side by side, so that a block's
// product is all that these units' cells need. A block has kVectors = gates * units / lanes vectors
// of columns; columns past the last unit are zero.
#pragma once

#include "common/simd.h"

namespace seqkern {
namespace SEQKERN_ISA {

constexpr int64_t kLineBytes = 64;

// element(k, gate, unit) = data[k * k_stride + gate * gate_stride + unit * unit_stride]
template <class S>
struct WeightView {
  const S* data;
  int64_t k_stride, gate_stride, unit_stride;
  int64_t depth, units;  // K, hidden units
};

constexpr int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}
constexpr int64_t ceil_div(int64_t n, int64_t d) {
  return (n + d - 1) / d;
}
template <class T>
constexpr T smaller(T a, T b) {
  return a < b ? a : b;
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

}  // namespace SEQKERN_ISA
}  // namespace seqkern
