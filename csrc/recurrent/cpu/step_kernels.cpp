#include "recurrent/cpu/step_kernels.h"

#include "common/level_table.h"

namespace seqkern {

#define X(level)                                   \
  namespace level {                                \
  void fill_step_kernels(StepKernels (*)[kCells]); \
  }
SEQKERN_ISA_LEVELS
#undef X

const StepKernels& step_kernels(Storage storage, Cell cell) {
#define X(level) level::fill_step_kernels,
  static const LevelTables<StepKernels[kCells]> tables({SEQKERN_ISA_LEVELS});
#undef X
  return tables.in_use(storage)[static_cast<int>(cell)];
}

}  // namespace seqkern
