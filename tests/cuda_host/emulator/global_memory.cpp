// Buffers in global memory, and the checks of every access.
#include <list>
#include <memory>

#include "machine.h"
#include "races.h"
#include "shared_memory.h"

namespace seqkern::emulator {
namespace {

struct Range {
  std::string name;
  const char* begin;
  size_t bytes;
  bool writable;
  std::unique_ptr<Histories> histories;  // of a writable one that a kernel has touched

  bool holds(const char* address, size_t size) const {
    return address >= begin && address + size <= begin + bytes;
  }
};

std::list<Range> buffers;
Range* last = nullptr;  // the one of the last access, probably the next one's too

// The buffer that an out-of-bounds address was probably meant for.
const Range* nearest(const char* address) {
  const Range* best = nullptr;
  size_t best_distance = SIZE_MAX;
  for (const Range& range : buffers) {
    const char* end = range.begin + range.bytes;
    const size_t distance = address < range.begin ? range.begin - address
                            : address >= end      ? address - end
                                                  : 0;
    if (distance < best_distance) {
      best_distance = distance;
      best = &range;
    }
  }
  return best;
}

void check_race(Range& range, const char* at, size_t size, Access access, Place place) {
  if (!range.histories) {
    range.histories = std::make_unique<Histories>();
    range.histories->reserve(range.bytes);
  }
  const auto name = [](size_t offset, const void* context) {
    return "byte " + std::to_string(offset) + " of '" + static_cast<const Range*>(context)->name +
           "'";
  };
  range.histories->check(at - range.begin, size, access, place, machine.launched, name, &range);
}

void check(const void* address, size_t size, Access access, Place place) {
  const char* at = static_cast<const char*>(address);
  const bool write = is_write(access);
  if (reinterpret_cast<uintptr_t>(address) % size != 0) {
    fail("misaligned %s of %zu bytes at %s", name_of(access), size, name_of(place).c_str());
  }
  if (access == Access::kWrite) machine.idle_polls = 0;  // of an atomic one it depends on the value
  if (is_shared(at)) {
    check_shared(at, size, access, place);
    return;
  }
  if (last == nullptr || !last->holds(at, size)) {
    last = nullptr;
    for (Range& range : buffers) {
      if (range.holds(at, size)) last = &range;
    }
  }
  if (last != nullptr) {
    if (last->writable) check_race(*last, at, size, access, place);
    if (!write || last->writable) return;
    fail("write into the read-only buffer '%s' at byte %td at %s", last->name.c_str(),
         at - last->begin, name_of(place).c_str());
  }
  const Range* range = nearest(at);
  if (range == nullptr) fail("access to memory although no buffer is registered");
  fail("out-of-bounds %s of %zu bytes at byte %td of '%s', which has %zu bytes, at %s",
       name_of(access), size, at - range->begin, range->name.c_str(), range->bytes,
       name_of(place).c_str());
}

}  // namespace

Buffer::Buffer(const char* name, const void* begin, size_t bytes) {
  buffers.push_front({name, static_cast<const char*>(begin), bytes, false, nullptr});
}

Buffer::Buffer(const char* name, void* begin, size_t bytes) {
  buffers.push_front({name, static_cast<const char*>(begin), bytes, true, nullptr});
}

// Buffers are local variables, so the one that ends is the one that came last.
Buffer::~Buffer() {
  buffers.pop_front();
  last = nullptr;
}

void check_read(const void* address, size_t bytes, Place place) {
  check(address, bytes, Access::kRead, place);
}

void check_write(const void* address, size_t bytes, Place place) {
  check(address, bytes, Access::kWrite, place);
}

void check_atomic(const void* address, size_t bytes, Place place) {
  check(address, bytes, Access::kAtomicWrite, place);
}

void check_poll(const void* address, size_t bytes, Place place) {
  check(address, bytes, Access::kAtomicRead, place);
}

void check_global(const void* address, Place place) {
  if (!is_shared(static_cast<const char*>(address))) return;
  fail("shared memory at %s, where only global memory is possible", name_of(place).c_str());
}

}  // namespace seqkern::emulator
