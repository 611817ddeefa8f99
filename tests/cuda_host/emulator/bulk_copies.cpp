// The copy engine: what it was told to copy arrives at any time until somebody waits for it.
#include <cstring>

#include "arrivals.h"
#include "machine.h"
#include "shared_memory.h"

namespace seqkern::emulator {
namespace {

constexpr int kChunk = 16;

void check_in_shared(const void* shared, size_t alignment, Place place) {
  if (!is_shared(static_cast<const char*>(shared))) {
    fail("the copy engine at %s with an address that is not in shared memory",
         name_of(place).c_str());
  }
  if (reinterpret_cast<uintptr_t>(shared) % alignment != 0) {
    fail("the copy engine at %s with shared memory that is not at a multiple of %zu bytes",
         name_of(place).c_str(), alignment);
  }
}

void check_bytes(int bytes, Place place) {
  if (bytes > 0 && bytes % kChunk == 0) return;
  fail("the copy engine at %s with %d bytes, which is not a multiple of %d", name_of(place).c_str(),
       bytes, kChunk);
}

// Shared memory that is about to be written: it is nobody else's, and NaN until the copy ends.
void take(void* shared, int bytes, Place place) {
  for (int at = 0; at < bytes; at += kChunk) {
    check_write(static_cast<char*>(shared) + at, kChunk, place);
  }
  std::memset(shared, 0xff, bytes);
}

// What whoever waits for the copy knows then: all that this thread did until now.
Knowledge knowledge_of_self() {
  Knowledge knowledge;
  knowledge.add(*machine.thread);
  ++machine.time;
  return knowledge;
}

// Row by row; where there is nothing, 0.
void copy_rows(char* to, const TileMap& map, int row, int column) {
  const int bytes = map.tile_columns * map.element;
  for (int r = 0; r < map.tile_rows; ++r) {
    for (int c = 0; c < map.tile_columns; ++c) {
      const int at = c * map.element;
      const int chunk = map.swizzled ? at / kChunk ^ r % 8 : at / kChunk;
      char* element = to + r * bytes + chunk * kChunk + at % kChunk;
      const int64_t y = int64_t{row} + r, x = int64_t{column} + c;
      if (y < 0 || y >= map.rows || x < 0 || x >= map.columns) {
        std::memset(element, 0, map.element);
      } else {
        std::memcpy(element, map.base + (y * map.stride + x) * map.element, map.element);
      }
    }
  }
}

}  // namespace

void copy_bulk(void* shared, const void* global, int bytes, void* arrivals, Place place) {
  check_in_shared(shared, kChunk, place);
  check_bytes(bytes, place);
  check_global(global, place);
  check_arrivals(arrivals, place);
  const auto* from = static_cast<const char*>(global);
  for (int at = 0; at < bytes; at += kChunk) check_read(from + at, kChunk, place);
  take(shared, bytes, place);
  machine.under_way.push_back([=, knowledge = knowledge_of_self()] {
    std::memcpy(shared, from, bytes);
    complete_bytes(arrivals, bytes, knowledge);
  });
}

TileMap make_tile_map(const void* base, int element, int64_t rows, int64_t columns, int64_t stride,
                      int tile_rows, int tile_columns, bool swizzled) {
  const TileMap map = {static_cast<const char*>(base),
                       element,
                       rows,
                       columns,
                       stride,
                       tile_rows,
                       tile_columns,
                       swizzled};
  const int row_bytes = tile_columns * element;
  if (reinterpret_cast<uintptr_t>(base) % kChunk != 0 || stride * element % kChunk != 0 ||
      row_bytes % kChunk != 0 || rows < 1 || columns < 1) {
    fail(
        "a tile map whose base, stride of %lld and tile rows of %d bytes are not all multiples of "
        "%d",
        static_cast<long long>(stride * element), row_bytes, kChunk);
  }
  if (tile_rows < 1 || tile_rows > 256 || tile_columns < 1 || tile_columns > 256) {
    fail("a tile map with tiles of %d x %d, where 256 are the most", tile_rows, tile_columns);
  }
  if (swizzled && row_bytes != 128) fail("a swizzled tile map with rows of %d bytes", row_bytes);
  return map;
}

void copy_tile(void* shared, const TileMap& map, int row, int column, void* arrivals, Place place) {
  check_in_shared(shared, map.swizzled ? 1024 : 128, place);
  check_arrivals(arrivals, place);
  const int bytes = map.tile_rows * map.tile_columns * map.element;
  for (int64_t y = 0; y < map.rows; ++y) {  // all of it is there
    check_read(map.base + y * map.stride * map.element, map.element, place);
    check_read(map.base + (y * map.stride + map.columns - 1) * map.element, map.element, place);
  }
  take(shared, bytes, place);
  machine.under_way.push_back([=, knowledge = knowledge_of_self()] {
    copy_rows(static_cast<char*>(shared), map, row, column);
    complete_bytes(arrivals, bytes, knowledge);
  });
}

void store_bulk(void* global, const void* shared, int bytes, Place place) {
  check_in_shared(shared, kChunk, place);
  check_bytes(bytes, place);
  check_global(global, place);
  const auto* from = static_cast<const char*>(shared);
  auto* to = static_cast<char*>(global);
  for (int at = 0; at < bytes; at += kChunk) {
    check_read(from + at, kChunk, place);
    check_write(to + at, kChunk, place);
  }
  Thread* self = machine.thread;
  ++self->stores_under_way;
  machine.under_way.push_back([=] {
    std::memcpy(to, from, bytes);
    --self->stores_under_way;
  });
}

void wait_bulk_stores(Place) {
  while (machine.thread->stores_under_way > 0) yield();
}

}  // namespace seqkern::emulator
