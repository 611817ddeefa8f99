#pragma once
// Numbers parked in a temporary file, block by block, from several threads.

#include <cstdint>
#include <mutex>
#include <vector>

namespace seqkern::text {

class Spool {
 public:
  // Where a block lies, and whose table its numbers belong to.
  struct Piece {
    uint64_t block;
    uint64_t offset;  // in numbers
    uint32_t length;
    uint32_t table;
  };

  // The descriptor is an empty file's; the caller keeps it open and deletes the file.
  explicit Spool(int descriptor) : descriptor_(descriptor) {}

  // Thread-safe. Throws FileError, when the disk is full say.
  void write(uint64_t block, uint32_t table, const std::vector<uint32_t>& numbers);
  void read(const Piece& piece, std::vector<uint32_t>& numbers) const;

  uint64_t bytes();
  // Whether the file lies in memory (tmpfs), not on a disk.
  bool in_memory() const;

  // All pieces in the order of their blocks.
  const std::vector<Piece>& sorted();

 private:
  int descriptor_;
  std::mutex mutex_;
  uint64_t end_ = 0;
  std::vector<Piece> pieces_;
};

}  // namespace seqkern::text
