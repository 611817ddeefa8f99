#pragma once
// The encoded corpus on disk: a header of 64 bytes, then int32 word ids with -1 after each
// sentence.

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

namespace seqkern::text {

constexpr int32_t kSentenceEnd = -1;

struct CorpusHeader {
  char magic[8];
  uint32_t version;
  uint32_t header_bytes;
  uint64_t entries;     // int32 numbers after the header: words and sentence ends
  uint64_t words;       // those that are word ids
  uint64_t sentences;   // those that are -1
  uint64_t vocabulary;  // every id is below
  uint64_t checksum;    // of the entries and of the header's numbers
  uint64_t reserved;
};
static_assert(sizeof(CorpusHeader) == 64, "the ids start at a multiple of a cache line");

// A checksum of int32 numbers in the order in which they come.
class Checksum {
 public:
  void add(const int32_t* numbers, size_t count);
  // With the header's own numbers; the checksum field is left out.
  uint64_t with(const CorpusHeader& header) const;

 private:
  uint64_t state_ = 0;
  uint32_t half_ = 0;
  bool odd_ = false;
};

// Writes ids in large pieces and the header at the end, once it is known.
class CorpusWriter {
 public:
  // The descriptor is an empty file's; the caller keeps it open. Everything throws FileError.
  CorpusWriter(int descriptor, uint64_t vocabulary);

  // Where up to `count` (at most kLargest) ids can be put before `advance` takes them.
  int32_t* room(size_t count);
  void advance(int32_t* end) { used_ = static_cast<size_t>(end - buffer_.data()); }

  // Writes what is left, and the header. `words` of the entries are ids, the others -1.
  CorpusHeader finish(uint64_t words, uint64_t sentences);

  static constexpr size_t kLargest = 1 << 16;

 private:
  void flush();

  int descriptor_;
  std::vector<int32_t> buffer_;
  size_t used_ = 0;
  Checksum checksum_;
  CorpusHeader header_{};
};

// What is wrong with an encoded corpus, as a sentence without a subject; empty if it is sound. The
// descriptor's file is read from its start to its end.
std::string check_corpus(int descriptor, const std::atomic<bool>& cancelled, CorpusHeader& header);

}  // namespace seqkern::text
