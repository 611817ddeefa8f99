#pragma once
// A text file in blocks that end between words, for several threads.
//
// The file is read, not mapped: one that shrinks meanwhile ends early and raises no signal.

#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

namespace seqkern::text {

struct Block {
  std::vector<char> text;  // `size` bytes, then kPadding spaces
  size_t size = 0;
  uint64_t number = 0;  // counts blocks from 0 in the order of the text
};

class BlockReader {
 public:
  // Reads from the descriptor's position on; the caller keeps it open. Blocks have about `chunk`
  // bytes, which is at least 4.
  BlockReader(int descriptor, size_t chunk);

  // Fetches the next block; false at the end of the text or once cancelled. Throws FileError.
  bool next(Block& block);

  void cancel() { cancelled_ = true; }
  uint64_t bytes_read() const { return bytes_read_; }

 private:
  size_t read_chunk(char* target);
  void wait_for_data();

  int descriptor_;
  size_t chunk_;
  bool regular_;
  std::atomic<bool> cancelled_{false};
  std::atomic<uint64_t> bytes_read_{0};
  std::mutex mutex_;
  std::vector<char> rest_;  // of the last chunk: what follows its last white space
  uint64_t blocks_ = 0;
  bool at_end_ = false;
};

}  // namespace seqkern::text
