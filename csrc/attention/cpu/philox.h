// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", 2011),
// the generator that decides which probabilities dropout keeps. seqkern/attention/philox.py has the
// same in PyTorch; a call's counters are (key / 4, query, sequence * heads + head, 0), and word
// key % 4 of the result belongs to the key.
#pragma once

#include "attention/cpu/problem.h"
#include "common/simd.h"

namespace seqkern {
namespace SEQKERN_ISA {

constexpr int kWords = kVectorBytes / 8;  // counters that are worked on at once
typedef uint64_t Words __attribute__((vector_size(kVectorBytes)));

// Products of the low halves of 64-bit lanes.
inline Words multiply_low(Words a, uint32_t b) {
  const Words factor = Words{} + b;
#if defined(__AVX512F__)
  return (Words)_mm512_mul_epu32((__m512i)a, (__m512i)factor);
#elif defined(__AVX2__)
  return (Words)_mm256_mul_epu32((__m256i)a, (__m256i)factor);
#elif defined(__SSE2__)
  return (Words)_mm_mul_epu32((__m128i)a, (__m128i)factor);
#else
  return (a & 0xffffffff) * factor;
#endif
}

// For `kWords` counters that differ in their second word: the four words of each, in the low halves
// (the high halves are undefined).
inline void philox(Words query, uint32_t first, uint32_t third, const uint32_t key[2],
                   Words out[4]) {
  constexpr uint32_t kMultiplier[2] = {0xD2511F53, 0xCD9E8D57};
  constexpr uint32_t kWeyl[2] = {0x9E3779B9, 0xBB67AE85};
  Words c0 = Words{} + first, c1 = query, c2 = Words{} + third, c3 = {};
  uint32_t k0 = key[0], k1 = key[1];
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round, k0 += kWeyl[0], k1 += kWeyl[1]) {
    const Words low = multiply_low(c0, kMultiplier[0]), high = multiply_low(c2, kMultiplier[1]);
    c0 = (high >> 32) ^ c1 ^ (Words{} + k0);
    c2 = (low >> 32) ^ c3 ^ (Words{} + k1);
    c1 = high;
    c3 = low;
  }
  out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

// Bit q of element j of the result: whether the probability of query first_query + q for key
// first_key + j is kept. The result lies in `keep`, which has room for keys + 3 elements: a counter
// holds four keys, and the first one's may begin before first_key.
__attribute__((noinline)) inline const uint64_t* keep_bits(const Dropout& dropout, uint32_t head,
                                                           int64_t first_query, int queries,
                                                           int64_t first_key, int keys,
                                                           uint64_t* keep) {
  const double scaled = dropout.probability * 4294967296.0;
  if (scaled >= 4294967296.0) {
    for (int j = 0; j < keys; ++j) keep[j] = 0;
    return keep;
  }
  const int before = static_cast<int>(first_key % 4);
  first_key -= before;
  keys += before;
  const uint32_t threshold = static_cast<uint32_t>(scaled);
  Words lane;
  for (int i = 0; i < kWords; ++i) lane[i] = i;
  for (int j = 0; j < keys; j += 4) {
    uint64_t bits[4] = {};
    for (int q = 0; q < queries; q += kWords) {
      Words words[4];
      philox(lane + static_cast<uint64_t>(first_query + q),
             static_cast<uint32_t>((first_key + j) / 4), head, dropout.key, words);
      for (int w = 0; w < 4; ++w) {
#if defined(__AVX512F__)
        const uint64_t kept = _mm512_cmpge_epu64_mask((__m512i)(words[w] & 0xffffffff),
                                                      (__m512i)(Words{} + threshold));
#else
        uint64_t kept = 0;
        for (int i = 0; i < kWords; ++i)
          kept |= static_cast<uint64_t>(static_cast<uint32_t>(words[w][i]) >= threshold) << i;
#endif
        bits[w] |= kept << q;
      }
    }
    for (int w = 0; w < 4 && j + w < keys; ++w) keep[j + w] = bits[w];
  }
  return keep + before;
}

// The same for all of one head: bytes (queries, keys).
inline void dropout_mask(const Dropout& dropout, uint32_t head, int64_t queries, int64_t keys,
                         uint8_t* keep) {
  constexpr int kRows = 64, kColumns = 64;
  uint64_t bits[kColumns];
  for (int64_t first = 0; first < queries; first += kRows, keep += kRows * keys) {
    const int rows = static_cast<int>(queries - first < kRows ? queries - first : kRows);
    for (int64_t key = 0; key < keys; key += kColumns) {
      const int columns = static_cast<int>(keys - key < kColumns ? keys - key : kColumns);
      keep_bits(dropout, head, first, rows, key, columns, bits);
      for (int q = 0; q < rows; ++q)
        for (int j = 0; j < columns; ++j) keep[q * keys + key + j] = bits[j] >> q & 1;
    }
  }
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
