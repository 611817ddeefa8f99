#include "text/block_reader.h"

#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "text/characters.h"
#include "text/file_error.h"
#include "text/word_table.h"

namespace seqkern::text {
namespace {

constexpr char kFile[] = "source";

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

// Shortens a text that is one word, still without an end, and longer than a word may be. What lies
// beyond kLongestWord is never looked at but for its last bytes, which may begin a white space.
size_t shorten(char* text, size_t size) {
  constexpr size_t kKept = kLongestWord + 1;
  if (size <= kKept + 2) return size;
  text[kLongestWord] = 'x';  // no character may form across the gap
  std::memmove(text + kKept, text + size - 2, 2);
  return kKept + 2;
}

}  // namespace

BlockReader::BlockReader(int descriptor, size_t chunk) : descriptor_(descriptor), chunk_(chunk) {
  struct stat status;
  if (fstat(descriptor, &status) != 0) throw FileError(kFile, errno);
  regular_ = S_ISREG(status.st_mode);
}

bool BlockReader::next(Block& block) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (at_end_ || cancelled_) return false;
  std::vector<char>& text = block.text;
  text.resize(rest_.size() + chunk_ + kPadding);
  std::copy(rest_.begin(), rest_.end(), text.begin());
  size_t size = rest_.size(), cut = 0;
  while (cut == 0) {
    text.resize(size + chunk_ + kPadding);
    const bool first = bytes_read_ == 0;
    const size_t length = read_chunk(text.data() + size);
    size += length;
    if (first && length >= 3 && std::memcmp(text.data(), "\xEF\xBB\xBF", 3) == 0) {
      size -= 3;  // a byte order mark is no part of the text
      std::memmove(text.data(), text.data() + 3, size);
    }
    std::memset(text.data() + size, ' ', kPadding);
    at_end_ = length < chunk_;
    if (cancelled_) return false;
    if (at_end_) {
      cut = size;
      break;
    }
    cut = last_cut(text.data(), size);
    if (cut == 0) size = shorten(text.data(), size);
  }
  rest_.assign(text.data() + cut, text.data() + size);
  std::memset(text.data() + cut, ' ', kPadding);
  block.size = cut;
  block.number = blocks_++;
  return cut != 0;
}

// Fills `target` with chunk_ bytes, fewer only at the end of the text.
size_t BlockReader::read_chunk(char* target) {
  size_t length = 0;
  while (length < chunk_ && !cancelled_) {
    if (!regular_) wait_for_data();
    if (cancelled_) break;
    const ssize_t got = ::read(descriptor_, target + length, chunk_ - length);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got < 0) throw FileError(kFile, errno);
    if (got == 0) break;
    length += static_cast<size_t>(got);
    bytes_read_ += static_cast<uint64_t>(got);
  }
  return length;
}

// A pipe may stay silent for ever: looks up now and then whether anybody still wants to read it.
void BlockReader::wait_for_data() {
  struct pollfd wanted = {descriptor_, POLLIN, 0};
  while (!cancelled_) {
    if (poll(&wanted, 1, 50) != 0) return;  // there is something to read, an end or an error
  }
}

}  // namespace seqkern::text
