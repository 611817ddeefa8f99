#include "embedding/cpu/row_groups.h"

#include <algorithm>

#include "common/ceil_div.h"
#include "common/tensors.h"

namespace seqkern {

namespace {

constexpr int kMostBits = 11;  // counters of a pass that stay in L1
constexpr int64_t kEntriesWorthAThread = 8192;

int bits_of(int64_t largest) {
  int bits = 0;
  while (largest >> bits) ++bits;
  return bits;
}

// One pass: orders `from` by `bits` bits of the key from `shift` on, stably, into `to`. Elements
// are key << 32 | entry.
void radix_pass(const uint64_t* from, uint64_t* to, int64_t count, int shift, int bits,
                int64_t slots) {
  const size_t buckets = size_t(1) << bits;
  const auto bucket = [=](uint64_t element) {
    return static_cast<size_t>(element >> (32 + shift)) & (buckets - 1);
  };
  std::vector<uint32_t> places(buckets * static_cast<size_t>(slots));
  const auto each_slot = [&](const auto& work) {
    torch::stable::parallel_for(0, slots, 1, [&](int64_t first, int64_t last) {
      for (int64_t slot = first; slot < last; ++slot)
        work(places.data() + static_cast<size_t>(slot) * buckets, slot * count / slots,
             (slot + 1) * count / slots);
    });
  };
  each_slot([&](uint32_t* own, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) ++own[bucket(from[i])];
  });
  uint32_t place = 0;
  for (size_t b = 0; b < buckets; ++b)
    for (int64_t slot = 0; slot < slots; ++slot) {
      uint32_t& own = places[static_cast<size_t>(slot) * buckets + b];
      const uint32_t here = own;
      own = place;
      place += here;
    }
  each_slot([&](uint32_t* own, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) to[own[bucket(from[i])]++] = from[i];
  });
}

}  // namespace

int64_t RowGroups::boundary(int64_t part, int64_t parts) const {
  if (part >= parts) return size();
  // Group g starts after starts[g] entries and g rows that were written.
  const int64_t goal = (static_cast<int64_t>(entries.size()) + size()) * part / parts;
  int64_t low = 0, high = size();
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (starts[static_cast<size_t>(middle)] + middle < goal)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

RowGroups group_rows(const uint32_t* keys, int64_t count, int64_t table_rows) {
  check(count < int64_t(UINT32_MAX) && table_rows < int64_t(kNoRow),
        "a batch should have fewer than 2^32 - 1 entries, and a table fewer rows, but there are ",
        count, " and ", table_rows);
  const std::unique_ptr<uint64_t[]> memory(new uint64_t[static_cast<size_t>(2 * count)]);
  uint64_t *from = memory.get(), *to = from + count;
  int64_t kept = 0;
  for (int64_t i = 0; i < count; ++i) {
    from[kept] = static_cast<uint64_t>(keys[i]) << 32 | static_cast<uint64_t>(i);
    kept += keys[i] != kNoRow;
  }
  const int bits = bits_of(table_rows - 1);
  const int passes = ceil_div(bits, kMostBits);
  const int64_t slots = std::max<int64_t>(
      1, std::min<int64_t>(torch::stable::get_num_threads(), kept / kEntriesWorthAThread));
  for (int pass = 0; pass < passes; ++pass) {
    const int begin = bits * pass / passes, end = bits * (pass + 1) / passes;
    radix_pass(from, to, kept, begin, end - begin, slots);
    std::swap(from, to);
  }

  RowGroups groups;
  groups.entries.resize(static_cast<size_t>(kept));
  groups.starts.reserve(static_cast<size_t>(std::min(kept, table_rows)) + 1);
  groups.rows.reserve(static_cast<size_t>(std::min(kept, table_rows)));
  for (int64_t i = 0; i < kept; ++i) {
    const uint32_t row = static_cast<uint32_t>(from[i] >> 32);
    groups.entries[static_cast<size_t>(i)] = static_cast<uint32_t>(from[i]);
    if (groups.rows.empty() || groups.rows.back() != row) {
      groups.rows.push_back(row);
      groups.starts.push_back(static_cast<uint32_t>(i));
    }
  }
  groups.starts.push_back(static_cast<uint32_t>(kept));
  return groups;
}

}  // namespace seqkern
