#include "text/word_table.h"

#include <algorithm>
#include <stdexcept>

namespace seqkern::text {

WordTable::WordTable(uint64_t seed) : seed_(seed), mask_((1 << 16) - 1), slots_(mask_ + 1) {}

uint32_t WordTable::add_unpadded(std::string_view word, uint64_t times) {
  word = word.substr(0, kLongestWord);
  char small[64 + kPadding];
  std::vector<char> large;
  char* copy = small;
  if (word.size() > 64) {
    large.resize(word.size() + kPadding);
    copy = large.data();
  }
  std::memcpy(copy, word.data(), word.size());
  std::memset(copy + word.size(), 0, kPadding);
  return add(copy, word.size(), times);
}

uint32_t WordTable::insert(const Key& key, const char* word, size_t place, uint64_t times) {
  // Numbers and their successors must fit 31 bits: the encoded corpus holds them as int32.
  if (entries_.size() >= 0x7FFFFFF0u) {
    throw std::length_error("the text has more than 2,147,483,632 different words");
  }
  const auto number = static_cast<uint32_t>(entries_.size());
  Entry entry{{key.head[0], key.head[1]}, times, key.length, key.hash};
  if (key.length > kInside) {
    entry.head[1] = arena_.size();
    arena_.insert(arena_.end(), word, word + key.length);
  }
  entries_.push_back(entry);
  slots_[place] = static_cast<uint64_t>(key.hash) << 32 | (number + 1);
  if (entries_.size() * 2 > slots_.size()) grow();
  return number;
}

void WordTable::grow() {
  // Hashes have 32 bits: with more slots than that, probes only get longer.
  std::vector<uint64_t> larger(slots_.size() * 2);
  const size_t mask = larger.size() - 1;
  for (const uint64_t slot : slots_) {
    if (slot == 0) continue;
    size_t place = (slot >> 32) & mask;
    while (larger[place] != 0) place = (place + 1) & mask;
    larger[place] = slot;
  }
  slots_ = std::move(larger);
  mask_ = mask;
}

}  // namespace seqkern::text
