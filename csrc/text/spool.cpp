#include "text/spool.h"

#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>

#include "text/file_error.h"

namespace seqkern::text {
namespace {
constexpr char kFile[] = "spool";
}

void Spool::write(uint64_t block, uint32_t table, const std::vector<uint32_t>& numbers) {
  if (numbers.empty()) return;
  uint64_t offset;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    offset = end_;
    end_ += numbers.size();
    pieces_.push_back({block, offset, static_cast<uint32_t>(numbers.size()), table});
  }
  const char* from = reinterpret_cast<const char*>(numbers.data());
  size_t left = numbers.size() * sizeof(uint32_t);
  auto position = static_cast<off_t>(offset * sizeof(uint32_t));
  while (left > 0) {
    const ssize_t written = pwrite(descriptor_, from, left, position);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) throw FileError(kFile, written < 0 ? errno : EIO);
    from += written;
    position += written;
    left -= static_cast<size_t>(written);
  }
}

void Spool::read(const Piece& piece, std::vector<uint32_t>& numbers) const {
  numbers.resize(piece.length);
  char* to = reinterpret_cast<char*>(numbers.data());
  size_t left = numbers.size() * sizeof(uint32_t);
  auto position = static_cast<off_t>(piece.offset * sizeof(uint32_t));
  while (left > 0) {
    const ssize_t got = pread(descriptor_, to, left, position);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) throw FileError(kFile, got < 0 ? errno : EIO);
    to += got;
    position += got;
    left -= static_cast<size_t>(got);
  }
}

uint64_t Spool::bytes() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return end_ * sizeof(uint32_t);
}

bool Spool::in_memory() const {
  struct statfs system;
  if (fstatfs(descriptor_, &system) != 0) throw FileError(kFile, errno);
  const auto kind = static_cast<uint32_t>(system.f_type);
  return kind == TMPFS_MAGIC || kind == RAMFS_MAGIC;
}

const std::vector<Spool::Piece>& Spool::sorted() {
  std::sort(pieces_.begin(), pieces_.end(),
            [](const Piece& a, const Piece& b) { return a.block < b.block; });
  return pieces_;
}

}  // namespace seqkern::text
