// A SIMD vector for the ISA level that the including file is compiled for (its own copy per level:
// see isa.h).
//
// Vec<float> and Vec<double> are thin wrappers of the compiler's vector extension, so one source
// serves SSE2, AVX2, AVX-512 and NEON; only what the extension cannot express (an approximate
// reciprocal) uses intrinsics. Products followed by sums are contracted to FMA by
// -ffp-contract=fast where the level has it.
//
// Files that are compiled per level must keep clear of inline standard library functions: the
// linker would be free to serve a baseline caller with a copy that was compiled for AVX-512.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __x86_64__
// GCC 12 takes its own header's deliberately undefined registers for mistakes.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

#ifndef SEQKERN_ISA
#error "simd.h is for files that are compiled once per ISA level (*_isa.cpp)"
#endif

namespace seqkern {

// Storage only: arithmetic happens in float.
struct bfloat16 {
  uint16_t bits;
};

namespace SEQKERN_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
constexpr int kVectorRegisters = 32;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
constexpr int kVectorRegisters = 16;
#elif defined(__aarch64__)
constexpr int kVectorBytes = 16;
constexpr int kVectorRegisters = 32;
#else
constexpr int kVectorBytes = 16;
constexpr int kVectorRegisters = 16;
#endif

// The numeric type that a storage type is computed in.
template <class S>
struct Compute {
  using type = S;
};
template <>
struct Compute<bfloat16> {
  using type = float;
};
template <class S>
using compute_t = typename Compute<S>::type;

// The compiler's vectors of a type: a whole register, its halves, integers of the same width, and
// bits, which are integers that wrap around where they overflow.
// (Spelled out for each type because the attribute is lost on a template parameter.)
template <class T>
struct Raw;
template <>
struct Raw<float> {
  typedef float full __attribute__((vector_size(kVectorBytes)));
  typedef float half __attribute__((vector_size(kVectorBytes / 2)));
  typedef int32_t integers __attribute__((vector_size(kVectorBytes)));
  typedef uint32_t bits __attribute__((vector_size(kVectorBytes)));
};
template <>
struct Raw<double> {
  typedef double full __attribute__((vector_size(kVectorBytes)));
  typedef double half __attribute__((vector_size(kVectorBytes / 2)));
  typedef int64_t integers __attribute__((vector_size(kVectorBytes)));
  typedef uint64_t bits __attribute__((vector_size(kVectorBytes)));
};
typedef uint32_t Bits32 __attribute__((vector_size(kVectorBytes)));
typedef uint16_t Bits16 __attribute__((vector_size(kVectorBytes / 2)));

template <class T>
struct Vec {
  static constexpr int kLanes = kVectorBytes / sizeof(T);
  using raw = typename Raw<T>::full;

  raw v;

  Vec() = default;
  Vec(raw value) : v(value) {}                    // a wrapper: conversions are its purpose
  Vec(T value) : v(value - raw{}) {}              // broadcast: value - 0 keeps the sign of -0
  template <class I, class = decltype(I() << 1)>  // so that 1 - x reads as it does for a number
  Vec(I value) : Vec(static_cast<T>(value)) {}

  friend Vec operator+(Vec a, Vec b) { return a.v + b.v; }
  friend Vec operator-(Vec a, Vec b) { return a.v - b.v; }
  friend Vec operator*(Vec a, Vec b) { return a.v * b.v; }
  friend Vec operator/(Vec a, Vec b) { return a.v / b.v; }
  Vec& operator+=(Vec b) { return v += b.v, *this; }
};

// ---- memory: full vectors, and the first n < kLanes lanes (the others read as zero) ----

template <class T>
inline Vec<T> load(const T* p) {
  Vec<T> x;
  std::memcpy(&x.v, p, sizeof(x.v));
  return x;
}

template <class T>
inline void store(T* p, Vec<T> x) {
  std::memcpy(p, &x.v, sizeof(x.v));
}

inline Vec<float> load(const bfloat16* p) {
  Bits16 bits;
  std::memcpy(&bits, p, sizeof(bits));
  const Bits32 wide = __builtin_convertvector(bits, Bits32) << 16;
  Vec<float> x;
  std::memcpy(&x.v, &wide, sizeof(x.v));
  return x;
}

// Rounds to nearest even; a NaN stays a (quiet) NaN.
inline void store(bfloat16* p, Vec<float> x) {
#ifdef __AVX512BF16__
  const __m256bh rounded = _mm512_cvtneps_pbh(x.v);
  std::memcpy(p, &rounded, sizeof(rounded));
#else
  Bits32 bits;
  std::memcpy(&bits, &x.v, sizeof(bits));
  const Bits32 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Bits32 quiet_nan = (bits >> 16) | 0x40;
  const auto is_nan = x.v != x.v;
  const Bits16 out = __builtin_convertvector(is_nan ? quiet_nan : rounded, Bits16);
  std::memcpy(p, &out, sizeof(out));
#endif
}

// load_lanes and store_lanes: n lanes, 0 <= n < kLanes, by masks or else one by one and out of line
// (the loop has many callers, and inlining makes of it far more code than the kernels around it).
// AVX-512's masks take n = kLanes as well.

template <class S>
__attribute__((noinline)) Vec<compute_t<S>> load_each(const S* p, int n) {
  S lanes[Vec<compute_t<S>>::kLanes] = {};
  for (int i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}

template <class S>
__attribute__((noinline)) void store_each(S* p, Vec<compute_t<S>> x, int n) {
  S lanes[Vec<compute_t<S>>::kLanes];
  store(lanes, x);
  for (int i = 0; i < n; ++i) p[i] = lanes[i];
}

template <class S>
inline Vec<compute_t<S>> load_lanes(const S* p, int n) {
  return load_each(p, n);
}
template <class S>
inline void store_lanes(S* p, Vec<compute_t<S>> x, int n) {
  store_each(p, x, n);
}

#if defined(__AVX512F__)
inline __mmask16 first_lanes(int n) {
  return static_cast<__mmask16>((1u << n) - 1);
}
inline Vec<float> load_lanes(const float* p, int n) {
  return Vec<float>::raw(_mm512_maskz_loadu_ps(first_lanes(n), p));
}
inline Vec<double> load_lanes(const double* p, int n) {
  return Vec<double>::raw(_mm512_maskz_loadu_pd(static_cast<__mmask8>(first_lanes(n)), p));
}
inline Vec<float> load_lanes(const bfloat16* p, int n) {
  const __m256i bits = _mm256_maskz_loadu_epi16(first_lanes(n), p);
  return Vec<float>::raw(_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16)));
}
inline void store_lanes(float* p, Vec<float> x, int n) {
  _mm512_mask_storeu_ps(p, first_lanes(n), x.v);
}
inline void store_lanes(double* p, Vec<double> x, int n) {
  _mm512_mask_storeu_pd(p, static_cast<__mmask8>(first_lanes(n)), x.v);
}
inline void store_lanes(bfloat16* p, Vec<float> x, int n) {
  bfloat16 lanes[Vec<float>::kLanes];
  store(lanes, x);
  _mm256_mask_storeu_epi16(p, first_lanes(n),
                           _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lanes)));
}
#elif defined(__AVX2__)
inline __m256i first_lanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline __m256i first_double_lanes(int n) {
  return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
}
inline Vec<float> load_lanes(const float* p, int n) {
  return Vec<float>::raw(_mm256_maskload_ps(p, first_lanes(n)));
}
inline Vec<double> load_lanes(const double* p, int n) {
  return Vec<double>::raw(_mm256_maskload_pd(p, first_double_lanes(n)));
}
inline void store_lanes(float* p, Vec<float> x, int n) {
  _mm256_maskstore_ps(p, first_lanes(n), x.v);
}
inline void store_lanes(double* p, Vec<double> x, int n) {
  _mm256_maskstore_pd(p, first_double_lanes(n), x.v);
}
#endif

// The same for any n; most vectors are whole.
template <class S>
inline Vec<compute_t<S>> load_first(const S* p, int n) {
  return n >= Vec<compute_t<S>>::kLanes ? load(p) : load_lanes(p, n);
}

template <class S>
inline void store_first(S* p, Vec<compute_t<S>> x, int n) {
  if (n >= Vec<compute_t<S>>::kLanes) return store(p, x);
  store_lanes(p, x, n);
}

#if defined(__AVX512F__)
inline float sum(Vec<float> x) {
  return _mm512_reduce_add_ps(x.v);
}
inline double sum(Vec<double> x) {
  return _mm512_reduce_add_pd(x.v);
}
#else
template <class T>
inline T sum(Vec<T> x) {
  constexpr int kHalf = Vec<T>::kLanes / 2;
  typename Raw<T>::half halves[2];
  std::memcpy(halves, &x.v, sizeof(halves));
  halves[0] += halves[1];
  T total = halves[0][0];
  for (int i = 1; i < kHalf; ++i) total += halves[0][i];
  return total;
}
#endif

// 0, 1, 2, ...
template <class T>
inline Vec<T> iota() {
  Vec<T> x;
  for (int i = 0; i < Vec<T>::kLanes; ++i) x.v[i] = static_cast<T>(i);
  return x;
}

// ---- maths ----

// The hardware's min and max give their second operand where one is NaN, so with x there a NaN in x
// survives.
#if defined(__AVX512F__)
inline Vec<float> at_most(float limit, Vec<float> x) {
  return Vec<float>::raw(_mm512_min_ps(Vec<float>(limit).v, x.v));
}
inline Vec<float> at_least(float limit, Vec<float> x) {
  return Vec<float>::raw(_mm512_max_ps(Vec<float>(limit).v, x.v));
}
inline Vec<double> at_most(double limit, Vec<double> x) {
  return Vec<double>::raw(_mm512_min_pd(Vec<double>(limit).v, x.v));
}
inline Vec<double> at_least(double limit, Vec<double> x) {
  return Vec<double>::raw(_mm512_max_pd(Vec<double>(limit).v, x.v));
}
#elif defined(__AVX2__)
inline Vec<float> at_most(float limit, Vec<float> x) {
  return Vec<float>::raw(_mm256_min_ps(Vec<float>(limit).v, x.v));
}
inline Vec<float> at_least(float limit, Vec<float> x) {
  return Vec<float>::raw(_mm256_max_ps(Vec<float>(limit).v, x.v));
}
inline Vec<double> at_most(double limit, Vec<double> x) {
  return Vec<double>::raw(_mm256_min_pd(Vec<double>(limit).v, x.v));
}
inline Vec<double> at_least(double limit, Vec<double> x) {
  return Vec<double>::raw(_mm256_max_pd(Vec<double>(limit).v, x.v));
}
#else
template <class T>
inline Vec<T> at_most(T limit, Vec<T> x) {
  const typename Vec<T>::raw most = Vec<T>(limit).v;
  return x.v > most ? most : x.v;
}
template <class T>
inline Vec<T> at_least(T limit, Vec<T> x) {
  const typename Vec<T>::raw least = Vec<T>(limit).v;
  return x.v < least ? least : x.v;
}
#endif

template <class T>
inline Vec<T> clamp(Vec<T> x, T low, T high) {
  return at_least(low, at_most(high, x));
}

template <class T>
inline Vec<T> relu(Vec<T> x) {
  const typename Vec<T>::raw zero = {};
  return x.v < zero ? zero : x.v;
}

// 0 where condition <= 0, else value: a NaN in the condition lets the value through.
template <class T>
inline Vec<T> zero_where_not_positive(Vec<T> value, Vec<T> condition) {
  const typename Vec<T>::raw zero = {};
  return condition.v <= zero ? zero : value.v;
}

// Lane i of x where bit i is set, else `otherwise`.
template <class T>
inline Vec<T> where_bits(uint64_t bits, Vec<T> x, T otherwise) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return Vec<T>(typename Vec<T>::raw(
        _mm512_mask_blend_ps(static_cast<__mmask16>(bits), Vec<T>(otherwise).v, x.v)));
  else
    return Vec<T>(typename Vec<T>::raw(
        _mm512_mask_blend_pd(static_cast<__mmask8>(bits), Vec<T>(otherwise).v, x.v)));
#else
  typename Raw<T>::integers bit;
  for (int i = 0; i < Vec<T>::kLanes; ++i) bit[i] = 1 << i;
  const typename Raw<T>::integers all = bit - bit + static_cast<int>(bits & 0xffff);
  return Vec<T>(typename Vec<T>::raw((all & bit) != 0 ? x.v : Vec<T>(otherwise).v));
#endif
}

inline Vec<double> reciprocal(Vec<double> x) {
  return Vec<double>(1.0) / x;
}

// Within 1 ulp for 2^-126 < |x| < 2^126, several times faster than a division: the hardware's
// estimate y and what Newton's iteration adds to it. The remainder 1 - x * y must be exact, which
// takes an FMA that does not depend on how the compiler optimizes.
inline Vec<float> reciprocal(Vec<float> x) {
#if defined(__AVX512F__)
  const Vec<float> y = Vec<float>::raw(_mm512_rcp14_ps(x.v));
  const Vec<float> rest = Vec<float>::raw(_mm512_fnmadd_ps(x.v, y.v, Vec<float>(1.0f).v));
  return y + y * rest;
#elif defined(__AVX2__)
  const Vec<float> y = Vec<float>::raw(_mm256_rcp_ps(x.v));  // 12 bits: one step leaves 2 ulp
  const Vec<float> rest = Vec<float>::raw(_mm256_fnmadd_ps(x.v, y.v, Vec<float>(1.0f).v));
  return y + y * (rest + rest * rest);
#else
  return Vec<float>(1.0f) / x;
#endif
}

// exp(x) = 2^n * exp(r) with integer n and |r| <= ln(2)/2; expm1(r) / r is a polynomial.
template <class T>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  static constexpr float kShift =
      12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low mantissa bits
  static constexpr uint32_t kBias = 127, kMantissaBits = 23;
  // n * kLn2 is exact, so that r is accurate whether or not the compiler forms FMAs.
  static constexpr float kLn2 = 0.693359375f, kLn2Rest = -2.12194440e-4f;
  static constexpr float kMaxExp = 87.0f;  // exp(87) < 2^126, where the reciprocal still holds
  static constexpr float kMaxTanh = 10.0f;
  // The minimax polynomial for relative error: within 1.2e-8.
  static constexpr float kPolynomial[] = {1.0f,          0.49999997f,    0.166665003f,
                                          0.0416671559f, 0.00836978666f, 0.00138888718f};
};
template <>
struct ExpConstants<double> {
  static constexpr double kShift = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr uint64_t kBias = 1023, kMantissaBits = 52;
  static constexpr double kLn2 = 6.93147180369123816490e-01, kLn2Rest = 1.90821492927058770002e-10;
  static constexpr double kMaxExp = 700.0;
  static constexpr double kMaxTanh = 20.0;
  // The Taylor series, 1 / (k + 1)!: within 1e-17.
  static constexpr double kPolynomial[] = {1.0,
                                           1.0 / 2,
                                           1.0 / 6,
                                           1.0 / 24,
                                           1.0 / 120,
                                           1.0 / 720,
                                           1.0 / 5040,
                                           1.0 / 40320,
                                           1.0 / 362880,
                                           1.0 / 3628800,
                                           1.0 / 39916800,
                                           1.0 / 479001600,
                                           1.0 / 6227020800.0};
};

template <class T>
struct ReducedExponent {
  Vec<T> n, r, expm1_over_r;
};

// |x| must not exceed kMaxExp (plus what times_power_of_two allows).
template <class T>
inline ReducedExponent<T> reduce_exponent(Vec<T> x) {
  using K = ExpConstants<T>;
  const Vec<T> n = (x * Vec<T>(T(1.44269504088896340736)) + Vec<T>(K::kShift)) - Vec<T>(K::kShift);
  const Vec<T> r = (x - n * Vec<T>(K::kLn2)) - n * Vec<T>(K::kLn2Rest);
  constexpr int kTerms = sizeof(K::kPolynomial) / sizeof(T);
  Vec<T> p(K::kPolynomial[kTerms - 1]);
#pragma GCC unroll 16
  for (int i = kTerms - 2; i >= 0; --i) p = p * r + Vec<T>(K::kPolynomial[i]);
  return {n, r, p};
}

// x * 2^n for an integer n in the exponent's range.
template <class T>
inline Vec<T> times_power_of_two(Vec<T> x, Vec<T> n) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return Vec<T>(typename Vec<T>::raw(_mm512_scalef_ps(x.v, n.v)));
  else
    return Vec<T>(typename Vec<T>::raw(_mm512_scalef_pd(x.v, n.v)));
#else
  const Vec<T> shifted = n + Vec<T>(ExpConstants<T>::kShift);
  typename Raw<T>::bits bits;  // of a NaN too
  std::memcpy(&bits, &shifted.v, sizeof(bits));
  bits = (bits + ExpConstants<T>::kBias) << ExpConstants<T>::kMantissaBits;
  Vec<T> power;
  std::memcpy(&power.v, &bits, sizeof(bits));
  return x * power;
#endif
}

// 1 / (1 + exp(-x)). float: within 3e-7 of the true value, relative.
template <class T>
inline Vec<T> sigmoid(Vec<T> x) {
  const ReducedExponent<T> e =
      reduce_exponent(clamp(0 - x, -ExpConstants<T>::kMaxExp, ExpConstants<T>::kMaxExp));
  return reciprocal(1 + times_power_of_two(1 + e.r * e.expm1_over_r, e.n));
}

// Splits x into its magnitude and its sign bit; with_sign puts the sign back.
template <class T>
inline Vec<T> magnitude(Vec<T> x, typename Raw<T>::integers& sign) {
  typename Raw<T>::integers bits, sign_bit;
  std::memcpy(&bits, &x.v, sizeof(bits));
  const Vec<T> minus_zero(T(-0.0));
  std::memcpy(&sign_bit, &minus_zero.v, sizeof(sign_bit));
  sign = bits & sign_bit;
  bits ^= sign;
  Vec<T> result;
  std::memcpy(&result.v, &bits, sizeof(bits));
  return result;
}

template <class T>
inline Vec<T> with_sign(Vec<T> x, typename Raw<T>::integers sign) {
  typename Raw<T>::integers bits;
  std::memcpy(&bits, &x.v, sizeof(bits));
  bits ^= sign;
  std::memcpy(&x.v, &bits, sizeof(bits));
  return x;
}

// With E = expm1(2|x|): E / (E + 2) where |x| is small, which keeps the relative accuracy there,
// and 1 - 2 / (E + 2) beyond, which rounds correctly near 1, where gradients see 1 - tanh(x)^2.
// float: within 3e-7 of the true value, relative.
template <class T>
inline Vec<T> tanh_(Vec<T> x) {
  typename Raw<T>::integers sign;
  const Vec<T> a = magnitude(x, sign);
  const ReducedExponent<T> e = reduce_exponent(at_most(2 * ExpConstants<T>::kMaxTanh, a + a));
  const Vec<T> power = times_power_of_two(Vec<T>(T(1)), e.n);
  const Vec<T> expm1 = power * (e.r * e.expm1_over_r) + (power - 1);
  const Vec<T> inverse = reciprocal(expm1 + 2);
  const Vec<T> small = expm1 * inverse, large = 1 - 2 * inverse;
  return with_sign<T>(a.v < Vec<T>(T(0.55)).v ? small.v : large.v, sign);
}

// ---- prefetching what a step will read and write ----
// (Always inlined: GCC takes a function that only prefetches for one without effects and drops the
// call.)

__attribute__((always_inline)) inline void prefetch(const void* p) {
  __builtin_prefetch(p, 0, 3);
}
__attribute__((always_inline)) inline void prefetch_to_write(const void* p) {
  __builtin_prefetch(p, 1, 3);
}
// Into L2 only.
__attribute__((always_inline)) inline void prefetch_far(const void* p) {
  __builtin_prefetch(p, 0, 2);
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
