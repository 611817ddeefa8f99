#include "recurrent/cpu/step_kernels.h"

#include <array>

#include "common/isa.h"

namespace seqkern {

#define X(level)                                   \
  namespace level {                                \
  void fill_step_kernels(StepKernels (*)[kCells]); \
  }
SEQKERN_ISA_LEVELS
#undef X

const StepKernels& step_kernels(Storage storage, Cell cell) {
  struct Table {
    StepKernels kernels[kStorages][kCells];
  };
  // Levels that the machine lacks are not even filled: that is code of the level. Those have the
  // kernels of the level below.
  static const std::array<Table, kIsaLevels> tables = [] {
    std::array<Table, kIsaLevels> by_level{};
    Table table{};
#define X(level)                                                          \
  if (isa_available(Isa::level)) level::fill_step_kernels(table.kernels); \
  by_level[static_cast<int>(Isa::level)] = table;
    SEQKERN_ISA_LEVELS
#undef X
    return by_level;
  }();
  return tables[static_cast<int>(isa_in_use())]
      .kernels[static_cast<int>(storage)][static_cast<int>(cell)];
}

}  // namespace seqkern
