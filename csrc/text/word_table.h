#pragma once
// Words and how often each was seen: open addressing over 8-byte slots, words of up to 16 bytes
// inside their 32-byte entry, longer ones in an arena.

#include <cstdint>
#include <string_view>
#include <vector>

#include "text/characters.h"

namespace seqkern::text {

// A longer word is cut there, as word2vec.c cuts its words.
constexpr size_t kLongestWord = 65536;

class WordTable {
 public:
  // Tables that are to be merged share the seed, which keeps chosen words from colliding.
  explicit WordTable(uint64_t seed);

  // Adds `times` to the word's count and returns its number, which counts words from 0 in the
  // order of their first appearance. kPadding bytes after the word must be readable.
  uint32_t add(const char* word, size_t length, uint64_t times = 1) {
    if (length > kLongestWord) length = kLongestWord;
    const Key key = make_key(word, length);
    size_t place = key.hash & mask_;
    for (; slots_[place] != 0; place = (place + 1) & mask_) {
      if (slots_[place] >> 32 != key.hash) continue;
      const auto number = static_cast<uint32_t>(slots_[place]) - 1;
      if (same(entries_[number], key, word)) {
        entries_[number].count += times;
        return number;
      }
    }
    return insert(key, word, place, times);
  }

  // The same for a word without readable bytes after it.
  uint32_t add_unpadded(std::string_view word, uint64_t times = 1);

  uint32_t size() const { return static_cast<uint32_t>(entries_.size()); }
  uint64_t count(uint32_t number) const { return entries_[number].count; }
  void set_count(uint32_t number, uint64_t count) { entries_[number].count = count; }

  // Valid until the next word is added.
  std::string_view word(uint32_t number) const {
    const Entry& entry = entries_[number];
    const char* start = entry.length <= kInside ? reinterpret_cast<const char*>(entry.head)
                                                : arena_.data() + entry.head[1];
    return {start, entry.length};
  }

 private:
  static constexpr size_t kInside = 16;

  struct Entry {
    uint64_t head[2];  // the word and zeros; or its first 8 bytes and where it lies in the arena
    uint64_t count;
    uint32_t length;
    uint32_t hash;
  };

  struct Key {
    uint64_t head[2];
    uint32_t length;
    uint32_t hash;
  };

  static uint64_t mix(uint64_t a, uint64_t b) {
    const auto product = static_cast<unsigned __int128>(a) * b;
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  }

  Key make_key(const char* word, size_t length) const {
    constexpr uint64_t kFirst = 0x9E3779B97F4A7C15ull, kSecond = 0xD1B54A32D192ED03ull;
    Key key;
    key.length = static_cast<uint32_t>(length);
    key.head[0] = load8(word);
    key.head[1] = 0;
    uint64_t hash = seed_;
    if (length < 8) {
      key.head[0] &= (1ull << (8 * length)) - 1;
    } else if (length < 16) {
      key.head[1] = load8(word + 8) & ((1ull << (8 * (length - 8))) - 1);
    } else if (length == 16) {
      key.head[1] = load8(word + 8);
    } else {
      size_t i = 0;
      for (; i + 16 < length; i += 16) {
        hash = mix(load8(word + i) ^ hash ^ kFirst, load8(word + i + 8) ^ kSecond);
      }
      hash = mix(load8(word + length - 16) ^ hash ^ kFirst, load8(word + length - 8) ^ kSecond);
      key.hash = static_cast<uint32_t>(mix(hash ^ kSecond, length ^ kFirst));
      return key;
    }
    hash = mix(key.head[0] ^ hash ^ kFirst, key.head[1] ^ kSecond);
    key.hash = static_cast<uint32_t>(mix(hash ^ kSecond, length ^ kFirst));
    return key;
  }

  bool same(const Entry& entry, const Key& key, const char* word) const {
    if (entry.length != key.length || entry.head[0] != key.head[0]) return false;
    if (key.length <= kInside) return entry.head[1] == key.head[1];
    return std::memcmp(arena_.data() + entry.head[1], word, key.length) == 0;
  }

  uint32_t insert(const Key& key, const char* word, size_t place, uint64_t times);
  void grow();

  uint64_t seed_;
  size_t mask_;
  std::vector<uint64_t> slots_;  // hash in the upper half, number + 1 in the lower; 0 is free
  std::vector<Entry> entries_;
  std::vector<char> arena_;
};

}  // namespace seqkern::text
