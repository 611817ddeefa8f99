#pragma once
// fastText's character n-grams: which ones a word has, and the bucket that each falls into.

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace seqkern::text {

// FNV-1a of 32 bits, but over signed bytes: a byte above 127 also flips the upper 24 bits.
inline uint32_t fasttext_hash(std::string_view bytes) {
  uint32_t hash = 2166136261u;
  for (const char c : bytes) {
    hash = (hash ^ static_cast<uint32_t>(static_cast<int8_t>(c))) * 16777619u;
  }
  return hash;
}

// Calls use(n-gram) for each run of min_n to max_n characters of "<word>", by their start and then
// by their length. The brackets by themselves are left out. `word` is UTF-8.
template <class Use>
void for_ngrams(std::string_view word, uint32_t min_n, uint32_t max_n, Use&& use) {
  std::string bracketed;
  bracketed.reserve(word.size() + 2);
  ((bracketed += '<') += word) += '>';
  const std::string_view all = bracketed;
  const auto continues = [&](size_t i) { return (all[i] & 0xC0) == 0x80; };
  for (size_t start = 0; start < all.size(); ++start) {
    if (continues(start)) continue;
    size_t end = start;
    for (uint32_t n = 1; n <= max_n && end < all.size(); ++n) {
      do {
        ++end;
      } while (end < all.size() && continues(end));
      if (n < min_n || (n == 1 && (start == 0 || end == all.size()))) continue;
      use(all.substr(start, end - start));
    }
  }
}

}  // namespace seqkern::text
