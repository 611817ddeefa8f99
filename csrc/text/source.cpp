#include "text/source.h"

#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "text/file_error.h"

namespace seqkern::text {
namespace {

constexpr char kFile[] = "source";

// A pipe may stay silent for ever: looks up now and then whether anybody still wants to read it.
void wait_for_data(int descriptor, const std::atomic<bool>& cancelled) {
  struct pollfd wanted = {descriptor, POLLIN, 0};
  while (!cancelled) {
    if (poll(&wanted, 1, 50) != 0) return;  // there is something to read, an end or an error
  }
}

}  // namespace

DescriptorSource::DescriptorSource(int descriptor, std::string beginning)
    : descriptor_(descriptor), beginning_(std::move(beginning)) {
  struct stat status;
  if (fstat(descriptor, &status) != 0) throw FileError(kFile, errno);
  regular_ = S_ISREG(status.st_mode);
}

size_t DescriptorSource::read(char* target, size_t length, const std::atomic<bool>& cancelled) {
  if (!beginning_.empty()) {
    const size_t taken = std::min(length, beginning_.size());
    std::memcpy(target, beginning_.data(), taken);
    beginning_.erase(0, taken);
    return taken;
  }
  while (!cancelled) {
    if (!regular_) wait_for_data(descriptor_, cancelled);
    if (cancelled) break;
    const ssize_t got = ::read(descriptor_, target, length);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got < 0) throw FileError(kFile, errno);
    return static_cast<size_t>(got);
  }
  return 0;
}

}  // namespace seqkern::text
