#include "text/corpus_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "text/file_error.h"

namespace seqkern::text {
namespace {

constexpr char kFile[] = "corpus";
constexpr char kMagic[] = {'s', 'e', 'q', 'k', 'i', 'd', 's', '\n'};
constexpr uint32_t kVersion = 1;
constexpr size_t kBuffered = 1 << 18;  // ids, 1 MiB

uint64_t fold(uint64_t state, uint64_t value) {
  state = (state ^ value) * 0x9E3779B97F4A7C15ull;
  return state ^ state >> 32;
}

void write_at(int descriptor, const void* data, size_t length, off_t position) {
  auto from = static_cast<const char*>(data);
  while (length > 0) {
    const ssize_t written = pwrite(descriptor, from, length, position);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) throw FileError(kFile, written < 0 ? errno : EIO);
    from += written;
    position += written;
    length -= static_cast<size_t>(written);
  }
}

// Returns how much could be read.
size_t read_at(int descriptor, void* data, size_t length, off_t position) {
  auto to = static_cast<char*>(data);
  size_t done = 0;
  while (done < length) {
    const ssize_t got =
        pread(descriptor, to + done, length - done, position + static_cast<off_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw FileError(kFile, errno);
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  return done;
}

std::string check_header(const CorpusHeader& header, uint64_t size) {
  if (std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0) {
    return "is no encoded corpus: its first 8 bytes are not 'seqkids\\n'";
  }
  if (header.version != kVersion || header.header_bytes != sizeof(header)) {
    return "has version " + std::to_string(header.version) + " at byte 8 and a header of " +
           std::to_string(header.header_bytes) + " bytes; this seqkern reads version 1 with 64";
  }
  // Compared without a product that could overflow.
  const uint64_t body = size - sizeof(header);
  if (body % sizeof(int32_t) != 0 || header.entries != body / sizeof(int32_t)) {
    return "holds " + std::to_string(body) + " bytes after its header, where byte 16 announces " +
           std::to_string(header.entries) + " numbers of 4 bytes: it was cut off or changed";
  }
  if (header.words > header.entries || header.sentences != header.entries - header.words) {
    return "announces " + std::to_string(header.words) + " words and " +
           std::to_string(header.sentences) + " sentences at byte 24, which do not add up to " +
           std::to_string(header.entries) + " numbers";
  }
  if (header.vocabulary > INT32_MAX) {
    return "announces " + std::to_string(header.vocabulary) +
           " different words at byte 40; at most 2147483647 are possible";
  }
  return "";
}

}  // namespace

void Checksum::add(const int32_t* numbers, size_t count) {
  size_t i = 0;
  if (odd_ && count > 0) {
    state_ = fold(state_, half_ | static_cast<uint64_t>(static_cast<uint32_t>(numbers[0])) << 32);
    odd_ = false;
    i = 1;
  }
  for (; i + 2 <= count; i += 2) {
    uint64_t both;
    std::memcpy(&both, numbers + i, sizeof(both));
    state_ = fold(state_, both);
  }
  if (i < count) {
    half_ = static_cast<uint32_t>(numbers[i]);
    odd_ = true;
  }
}

uint64_t Checksum::with(const CorpusHeader& header) const {
  uint64_t state = odd_ ? fold(state_, half_) : state_;
  for (const uint64_t value :
       {header.entries, header.words, header.sentences, header.vocabulary, header.reserved}) {
    state = fold(state, value);
  }
  return state;
}

CorpusWriter::CorpusWriter(int descriptor, uint64_t vocabulary)
    : descriptor_(descriptor), buffer_(kBuffered) {
  header_.vocabulary = vocabulary;
}

int32_t* CorpusWriter::room(size_t count) {
  if (buffer_.size() - used_ < count) flush();
  return buffer_.data() + used_;
}

void CorpusWriter::flush() {
  checksum_.add(buffer_.data(), used_);
  const uint64_t position = sizeof(header_) + header_.entries * sizeof(int32_t);
  write_at(descriptor_, buffer_.data(), used_ * sizeof(int32_t), static_cast<off_t>(position));
  header_.entries += used_;
  used_ = 0;
}

CorpusHeader CorpusWriter::finish(uint64_t words, uint64_t sentences) {
  flush();
  std::memcpy(header_.magic, kMagic, sizeof(kMagic));
  header_.version = kVersion;
  header_.header_bytes = sizeof(header_);
  header_.words = words;
  header_.sentences = sentences;
  header_.checksum = checksum_.with(header_);
  write_at(descriptor_, &header_, sizeof(header_), 0);
  return header_;
}

std::string check_corpus(int descriptor, const std::atomic<bool>& cancelled, CorpusHeader& header) {
  struct stat status;
  if (fstat(descriptor, &status) != 0) throw FileError(kFile, errno);
  const auto size = static_cast<uint64_t>(status.st_size);
  if (read_at(descriptor, &header, sizeof(header), 0) < sizeof(header) || size < sizeof(header)) {
    return "has " + std::to_string(size) + " bytes, fewer than the 64 of an encoded corpus' header";
  }
  std::string wrong = check_header(header, size);
  if (!wrong.empty()) return wrong;

  const auto vocabulary = static_cast<int32_t>(header.vocabulary);
  std::vector<int32_t> buffer(std::min<uint64_t>(kBuffered, header.entries));
  Checksum checksum;
  uint64_t ends = 0;
  for (uint64_t entry = 0; entry < header.entries && !cancelled;) {
    const auto count = static_cast<size_t>(std::min<uint64_t>(kBuffered, header.entries - entry));
    const uint64_t position = sizeof(header) + entry * sizeof(int32_t);
    const size_t bytes = count * sizeof(int32_t);
    const size_t got = read_at(descriptor, buffer.data(), bytes, static_cast<off_t>(position));
    if (got < bytes) return "ends at byte " + std::to_string(position + got) + " while it is read";
    int32_t largest = -1, smallest = 0;
    uint32_t ends_here = 0;
    for (size_t i = 0; i < count; ++i) {
      largest = std::max(largest, buffer[i]);
      smallest = std::min(smallest, buffer[i]);
      ends_here += buffer[i] == kSentenceEnd;
    }
    if (largest >= vocabulary || smallest < kSentenceEnd) {
      size_t i = 0;
      while (buffer[i] >= kSentenceEnd && buffer[i] < vocabulary) ++i;
      return "holds the word id " + std::to_string(buffer[i]) + " at byte " +
             std::to_string(position + i * sizeof(int32_t)) + ", of a vocabulary of " +
             std::to_string(vocabulary);
    }
    ends += ends_here;
    checksum.add(buffer.data(), count);
    entry += count;
    if (entry == header.entries && buffer[count - 1] != kSentenceEnd) {
      return "does not end with a sentence's end (-1) at byte " + std::to_string(size - 4);
    }
  }
  if (cancelled) return "";
  if (ends != header.sentences) {
    return "holds " + std::to_string(ends) + " sentence ends, where byte 32 announces " +
           std::to_string(header.sentences);
  }
  if (checksum.with(header) != header.checksum) {
    return "was changed after it was written: its checksum at byte 48 does not fit";
  }
  return "";
}

}  // namespace seqkern::text
