#include "embedding/cpu/train_kernels.h"

#include <array>

#include "common/isa.h"

namespace seqkern {

#define X(level)                          \
  namespace level {                       \
  void fill_train_kernels(TrainKernels*); \
  }
SEQKERN_ISA_LEVELS
#undef X

const TrainKernels& train_kernels(Storage storage) {
  using Table = std::array<TrainKernels, kStorages>;
  // Levels that the machine lacks are not even filled: that is code of the level. Those have the
  // kernels of the level below.
  static const std::array<Table, kIsaLevels> tables = [] {
    std::array<Table, kIsaLevels> by_level{};
    Table table{};
#define X(level)                                                          \
  if (isa_available(Isa::level)) level::fill_train_kernels(table.data()); \
  by_level[static_cast<int>(Isa::level)] = table;
    SEQKERN_ISA_LEVELS
#undef X
    return by_level;
  }();
  return tables[static_cast<int>(isa_in_use())][static_cast<int>(storage)];
}

}  // namespace seqkern
