#include "text/block_reader.h"

#include <algorithm>
#include <cstring>

#include "text/characters.h"
#include "text/word_table.h"

namespace seqkern::text {
namespace {

// Of a word that is too long, what a block keeps: as much as a word may have, a byte through which
// no character can form, and its last bytes, with which a white space or a character may begin.
constexpr size_t kKept = kLongestWord + 1;
constexpr size_t kTail = 3;

// Where the last white space ends; 0 if there is none. kPadding readable bytes follow.
size_t last_cut(const char* text, size_t size) {
  for (size_t i = size; i > 0; --i) {
    if (is_space(text[i - 1])) return i;
  }
  size_t cut = 0;
  for (size_t i = 0; i < size; ++i) {
    const size_t length = wide_space(text + i);
    if (length != 0 && i + length <= size) cut = i + length;
  }
  return cut;
}

}  // namespace

uint64_t Block::place(size_t at) const {
  return start + at + (at >= kKept ? dropped : 0);
}

BlockReader::BlockReader(Source& source, size_t chunk, bool strict)
    : source_(source), chunk_(chunk), strict_(strict) {}

bool BlockReader::next(Block& block) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (at_end_ || cancelled_) return false;
  std::vector<char>& text = block.text;
  text.resize(rest_.size() + chunk_ + kPadding);
  std::copy(rest_.begin(), rest_.end(), text.begin());
  block.start = handed_out_;
  block.dropped = 0;
  block.unchecked = 0;
  size_t size = rest_.size(), cut = 0;
  while (cut == 0) {
    text.resize(size + chunk_ + kPadding);
    const bool first = bytes_read_ == 0;
    const size_t length = read_chunk(text.data() + size);
    size += length;
    if (first && length >= 3 && std::memcmp(text.data(), "\xEF\xBB\xBF", 3) == 0) {
      size -= 3;  // a byte order mark is no part of the text
      std::memmove(text.data(), text.data() + 3, size);
      block.start = 3;
    }
    std::memset(text.data() + size, ' ', kPadding);
    at_end_ = length < chunk_;
    if (cancelled_) return false;
    if (at_end_) {
      cut = size;
      break;
    }
    cut = last_cut(text.data(), size);
    if (cut == 0) size = shorten(block, size);
    if (at_end_) cut = size;
  }
  rest_.assign(text.data() + cut, text.data() + size);
  std::memset(text.data() + cut, ' ', kPadding);
  block.size = cut;
  block.number = blocks_++;
  handed_out_ = block.place(cut);
  return cut != 0;
}

// Shortens a block that is one word, still without an end, if that is longer than a word may be.
// What lies beyond kLongestWord is looked at only if it has to be UTF-8.
size_t BlockReader::shorten(Block& block, size_t size) {
  if (size <= kKept + kTail) return size;
  char* text = block.text.data();
  size_t unfinished = 0;  // bytes of the last character
  if (strict_) {
    const std::string_view fresh(text + block.unchecked, size - block.unchecked);
    const Utf8 found = check_utf8(fresh);
    if (found.bad) {
      at_end_ = true;  // the block's reader will find it, too
      return std::min(size, block.unchecked + found.valid + 4);
    }
    unfinished = fresh.size() - found.valid;
  }
  text[kLongestWord] = 'x';
  std::memmove(text + kKept, text + size - kTail, kTail);
  block.dropped += size - (kKept + kTail);
  block.unchecked = kKept + kTail - unfinished;
  return kKept + kTail;
}

// Fills `target` with chunk_ bytes, fewer only at the end of the text.
size_t BlockReader::read_chunk(char* target) {
  size_t length = 0;
  while (length < chunk_ && !cancelled_) {
    const size_t got = source_.read(target + length, chunk_ - length, cancelled_);
    if (got == 0) break;
    length += got;
    bytes_read_ += got;
  }
  return length;
}

}  // namespace seqkern::text
