#pragma once
// A text in blocks that end between words, for several threads.

#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

#include "text/source.h"

namespace seqkern::text {

struct Block {
  std::vector<char> text;  // `size` bytes, then kPadding spaces
  size_t size = 0;
  uint64_t number = 0;   // counts blocks from 0 in the order of the text
  uint64_t start = 0;    // the place of the first byte in the text
  uint64_t dropped = 0;  // bytes that a too long first word has lost
  size_t unchecked = 0;  // where what the reader has not seen to be UTF-8 begins

  // The place in the text of a byte of the block.
  uint64_t place(size_t at) const;
};

class BlockReader {
 public:
  // Blocks have about `chunk` bytes, which is at least 4. If `strict`, the text ends after the
  // first character that is no UTF-8 where a word too long to be kept holds it.
  BlockReader(Source& source, size_t chunk, bool strict);

  // Fetches the next block; false at the end of the text or once cancelled. Throws what the source
  // does.
  bool next(Block& block);

  void cancel() { cancelled_ = true; }
  uint64_t bytes_read() const { return bytes_read_; }

 private:
  size_t read_chunk(char* target);
  size_t shorten(Block& block, size_t size);

  Source& source_;
  size_t chunk_;
  bool strict_;
  std::atomic<bool> cancelled_{false};
  std::atomic<uint64_t> bytes_read_{0};
  std::mutex mutex_;
  std::vector<char> rest_;  // of the last chunk: what follows its last white space
  uint64_t blocks_ = 0;
  uint64_t handed_out_ = 0;  // bytes of the text in earlier blocks
  bool at_end_ = false;
};

}  // namespace seqkern::text
