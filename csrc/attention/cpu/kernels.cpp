#include "attention/cpu/kernels.h"

#include <array>

#include "common/isa.h"

namespace seqkern {

#define X(level)                                  \
  namespace level {                               \
  void fill_attention_kernels(AttentionKernels*); \
  }
SEQKERN_ISA_LEVELS
#undef X

const AttentionKernels& attention_kernels(Storage storage) {
  using Table = std::array<AttentionKernels, kStorages>;
  // Each level starts from the one below. Levels that the machine lacks are not even filled: that
  // is code of the level.
  static const std::array<Table, kIsaLevels> tables = [] {
    std::array<Table, kIsaLevels> by_level{};
    Table table{};
#define X(level)                                                              \
  if (isa_available(Isa::level)) level::fill_attention_kernels(table.data()); \
  by_level[static_cast<int>(Isa::level)] = table;
    SEQKERN_ISA_LEVELS
#undef X
    return by_level;
  }();
  return tables[static_cast<int>(isa_in_use())][static_cast<int>(storage)];
}

}  // namespace seqkern
