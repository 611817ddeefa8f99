// Each block has one stretch of addresses, and all have the same layout: static arrays in the order
// in which they were first reached, then the dynamic part. Gaps that belong to nothing lie between.
#include "shared_memory.h"

#include <cstring>

#include "races.h"

namespace seqkern::emulator {
namespace {

constexpr size_t kGap = 256;
constexpr size_t kMostStatic = 48 * 1024;  // bytes, what nvcc lets a block have
constexpr size_t kDynamic = 128 * 1024;    // where the dynamic part begins: after arrays and gaps
constexpr int kUnset = 0xff;               // NaN in every floating point type

struct Array {
  Place place;
  std::string name;
  size_t begin, bytes;
};

std::vector<Array> arrays;
size_t static_end, static_bytes;
char* memory = nullptr;
size_t stride, mapped;
Histories histories;

char* of_slot(int slot) {
  return memory + slot * stride;
}

Block& block_at(const char* address) {
  return machine.blocks[(address - memory) / stride];
}

// The array that lies there or ends before; null in the dynamic part and the gap before it.
const Array* array_at(size_t at) {
  if (machine.launch.dynamic_shared > 0 && at + kGap > kDynamic) return nullptr;
  const Array* found = nullptr;
  for (const Array& array : arrays) {
    if (array.begin <= at) found = &array;
  }
  return found;
}

void unset(size_t begin, size_t bytes) {
  for (size_t slot = 0; slot < machine.blocks.size(); ++slot) {
    std::memset(of_slot(slot) + begin, kUnset, bytes);
  }
}

}  // namespace

void begin_shared_memory(int blocks) {
  arrays.clear();
  static_end = static_bytes = 0;
  stride = (kDynamic + machine.launch.dynamic_shared + kGap + 4095) / 4096 * 4096;
  if (blocks * stride > mapped) {
    unmap_memory(memory, mapped);
    mapped = blocks * stride;
    memory = map_memory(mapped);
  }
  histories.reserve(blocks * stride);
}

void clear_shared_memory() {
  for (const Array& array : arrays) unset(array.begin, array.bytes);
  unset(kDynamic, machine.launch.dynamic_shared);
}

bool is_shared(const char* address) {
  return address >= memory && address < memory + machine.blocks.size() * stride;
}

void check_shared(const char* address, size_t size, Access access, Place place) {
  const Block& self = *machine.thread->block;
  const Block& block = block_at(address);
  const char* does = name_of(access);
  if (&block != &self) {
    if (block.index / machine.launch.cluster != self.index / machine.launch.cluster) {
      fail("%s of the shared memory of block %d, which is not in its cluster, at %s", does,
           block.index, name_of(place).c_str());
    }
    if (machine.thread->cluster_waits == 0) {
      fail("%s of the shared memory of block %d before the cluster's first barrier, at %s", does,
           block.index, name_of(place).c_str());
    }
    if (block.ended == machine.launch.threads) {
      fail("%s of the shared memory of block %d, which has ended, at %s", does, block.index,
           name_of(place).c_str());
    }
  }
  const size_t at = address - of_slot(block.slot);
  const size_t dynamic = machine.launch.dynamic_shared;
  const Array* array = array_at(at);
  const bool in_array = array && at + size <= array->begin + array->bytes;
  const bool in_dynamic = at >= kDynamic && at + size <= kDynamic + dynamic;
  if (in_array || in_dynamic) {
    const auto name = [](size_t offset, const void*) { return name_of_shared(memory + offset); };
    histories.check(address - memory, size, access, place, self.began, name, nullptr);
    return;
  }
  if (array == nullptr && dynamic == 0) {
    fail("%s of shared memory, of which there is none, at %s", does, name_of(place).c_str());
  }
  const size_t bytes = array ? array->bytes : dynamic;
  fail("out-of-bounds %s of %zu bytes at %s, which has %zu bytes, at %s", does, size,
       name_of_shared(address).c_str(), bytes, name_of(place).c_str());
}

std::string name_of_shared(const char* address) {
  const size_t at = (address - memory) % stride;
  const Array* array = array_at(at);
  const auto byte =
      static_cast<ptrdiff_t>(at) - static_cast<ptrdiff_t>(array ? array->begin : kDynamic);
  return "byte " + std::to_string(byte) + " of " +
         (array ? "'" + array->name + "'" : "the dynamic shared memory");
}

char* in_block(const Block& block, const char* address, Place place) {
  if (!is_shared(address)) {
    fail("an address at %s that is not in shared memory", name_of(place).c_str());
  }
  return of_slot(block.slot) + (address - memory) % stride;
}

void* shared_memory(const char* name, size_t bytes, Place place) {
  size_t i = 0;
  while (i < arrays.size() &&
         !(same(arrays[i].place, place) && arrays[i].name == name && arrays[i].bytes == bytes)) {
    ++i;
  }
  if (i == arrays.size()) {
    static_bytes = (static_bytes + 15) / 16 * 16 + bytes;
    if (static_bytes > kMostStatic) {
      fail("'%s' makes it %zu bytes of static shared memory, where %zu are the most", name,
           static_bytes, kMostStatic);
    }
    arrays.push_back({place, name, static_end, bytes});
    unset(static_end, bytes);
    static_end = (static_end + bytes + kGap + 127) / 128 * 128;
    if (static_end > kDynamic) fail("too many arrays in shared memory");
  }
  return of_slot(machine.thread->block->slot) + arrays[i].begin;
}

void* dynamic_shared_memory(Place place) {
  if (machine.launch.dynamic_shared == 0) {
    fail("dynamic shared memory at %s, but the launch gives none", name_of(place).c_str());
  }
  return of_slot(machine.thread->block->slot) + kDynamic;
}

}  // namespace seqkern::emulator
