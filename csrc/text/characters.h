#pragma once
// White space and UTF-8 as Python sees them, so that a text falls into the words of str.split().

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "words are read as little-endian numbers");

namespace seqkern::text {

// Readable bytes that must follow whatever is scanned: it is read 16 bytes at a time.
constexpr size_t kPadding = 32;

inline uint64_t load8(const char* p) {
  uint64_t value;
  std::memcpy(&value, p, sizeof(value));
  return value;
}

// White space of one byte, as in Python: tab to carriage return, the four separators, space.
inline bool is_space(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte <= 0x20 && ((1ull << 0x20 | 0xFull << 0x1C | 0x1Full << 0x09) >> byte & 1);
}

// Bytes of the white-space character beyond ASCII that starts at p; 0 if none does.
inline size_t wide_space(const char* p) {
  const auto byte = [p](int i) { return static_cast<unsigned char>(p[i]); };
  switch (byte(0)) {
    case 0xC2:  // U+0085, U+00A0
      return byte(1) == 0x85 || byte(1) == 0xA0 ? 2 : 0;
    case 0xE1:  // U+1680
      return byte(1) == 0x9A && byte(2) == 0x80 ? 3 : 0;
    case 0xE2:  // U+2000 to U+200A, U+2028, U+2029, U+202F, U+205F
      if (byte(1) == 0x81) return byte(2) == 0x9F ? 3 : 0;
      if (byte(1) != 0x80) return 0;
      return byte(2) <= 0x8A ? (byte(2) >= 0x80 ? 3 : 0)
                             : (byte(2) == 0xA8 || byte(2) == 0xA9 || byte(2) == 0xAF ? 3 : 0);
    case 0xE3:  // U+3000
      return byte(1) == 0x80 && byte(2) == 0x80 ? 3 : 0;
    default:
      return 0;
  }
}

// The first one-byte white space at or after p, which must exist. `high` gathers the bytes' top
// bits: it stays without bit 7 in every byte where all of them were ASCII.
inline const char* find_space(const char* p, uint64_t& high) {
  constexpr uint64_t kOnes = 0x0101010101010101ull, kTops = kOnes << 7;
  for (;;) {
    const uint64_t bytes = load8(p);
    // Flags bytes below 0x21. The lowest flag is exact; a borrow may raise wrong ones above it.
    uint64_t below = (bytes - kOnes * 0x21) & ~bytes & kTops;
    if (below == 0) {
      high |= bytes;
      p += 8;
      continue;
    }
    const int at = __builtin_ctzll(below) >> 3;
    high |= bytes & ((1ull << (8 * at)) - 1);
    p += at;
    if (is_space(*p)) return p;
    ++p;  // a control character is part of the word
  }
}

inline bool has_high(uint64_t bytes) {
  return bytes & 0x8080808080808080ull;
}

// How far the bytes are UTF-8, without surrogates or overlong forms.
struct Utf8 {
  size_t valid;  // bytes of whole characters at the front
  bool bad;      // what follows is no beginning of a character
};

Utf8 check_utf8(std::string_view bytes);

inline bool is_utf8(std::string_view bytes) {
  return check_utf8(bytes).valid == bytes.size();
}

// The bytes with every maximal ill-formed part replaced by U+FFFD: Python's errors="replace". Only
// as many whole characters as fit `limit` bytes.
std::string replace_invalid(std::string_view bytes, size_t limit);

}  // namespace seqkern::text
