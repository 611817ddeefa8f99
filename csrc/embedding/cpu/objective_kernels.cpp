#include "embedding/cpu/objective_kernels.h"

#include "common/level_table.h"

namespace seqkern {

#define X(level)                                  \
  namespace level {                               \
  void fill_objective_kernels(ObjectiveKernels*); \
  }
SEQKERN_ISA_LEVELS
#undef X

const ObjectiveKernels& objective_kernels(Storage storage) {
#define X(level) level::fill_objective_kernels,
  static const LevelTables<ObjectiveKernels> tables({SEQKERN_ISA_LEVELS});
#undef X
  return tables.in_use(storage);
}

}  // namespace seqkern
