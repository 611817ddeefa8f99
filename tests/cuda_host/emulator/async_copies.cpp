// cp.async: a copy lands when the thread waits for it, and not a moment before.
#include <cstring>

#include "machine.h"
#include "shared_memory.h"

namespace seqkern::emulator {
namespace {

void land(const CopyAsync& copy) {
  check_write(copy.to, copy.bytes, copy.place);
  if (copy.valid > 0) std::memcpy(copy.to, copy.from, copy.valid);
  std::memset(copy.to + copy.valid, 0, copy.bytes - copy.valid);
}

}  // namespace

void copy_async(void* shared, const void* global, int bytes, int valid, Place place) {
  Thread& self = *machine.thread;
  auto* to = static_cast<char*>(shared);
  const auto* from = static_cast<const char*>(global);
  if (!is_shared(to)) {
    fail("cp.async at %s to an address that is not in shared memory", name_of(place).c_str());
  }
  if (valid < 0 || valid > bytes) {
    fail("cp.async of %d of %d bytes at %s", valid, bytes, name_of(place).c_str());
  }
  if (reinterpret_cast<uintptr_t>(from) % bytes != 0) {
    fail("misaligned read of %d bytes at %s", bytes, name_of(place).c_str());
  }
  if (valid > 0) check_global(from, place);
  for (int i = 0; i < valid; ++i) check_read(from + i, 1, place);
  check_write(to, bytes, place);
  std::memset(to, 0xff, bytes);  // NaN until it lands
  self.copies.push_back({to, from, bytes, valid, self.copy_group, place});
}

void commit_copies(Place) {
  ++machine.thread->copy_group;
}

void wait_copies(int pending, Place) {
  Thread& self = *machine.thread;
  std::vector<CopyAsync> under_way;
  for (const CopyAsync& copy : self.copies) {
    if (copy.group < self.copy_group - pending) {
      land(copy);
    } else {
      under_way.push_back(copy);
    }
  }
  self.copies = std::move(under_way);
}

}  // namespace seqkern::emulator
