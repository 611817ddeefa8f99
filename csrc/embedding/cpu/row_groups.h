// Which entries of a batch go to the same row of a table.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace seqkern {

// The entries of each row that has any: those of group g are entries[starts[g]] to
// entries[starts[g + 1]] in rising order, and its row is rows[g]; the rows rise too. So whatever
// is summed group by group is summed in an order that depends on nothing but the batch.
struct RowGroups {
  std::vector<uint32_t> entries, starts, rows;

  int64_t size() const { return static_cast<int64_t>(rows.size()); }

  // The groups of part `part` of `parts`, which have about the same work to do each: from
  // boundary(part, parts) to boundary(part + 1, parts).
  int64_t boundary(int64_t part, int64_t parts) const;
};

constexpr uint32_t kNoRow = UINT32_MAX;

// Groups `count` entries by keys[entry], a row below table_rows, or kNoRow for an entry that is
// left out. A stable radix sort: a few passes, whatever the number of rows.
RowGroups group_rows(const uint32_t* keys, int64_t count, int64_t table_rows);

}  // namespace seqkern
