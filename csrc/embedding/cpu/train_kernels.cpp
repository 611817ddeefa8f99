#include "embedding/cpu/train_kernels.h"

#include "common/level_table.h"

namespace seqkern {

#define X(level)                          \
  namespace level {                       \
  void fill_train_kernels(TrainKernels*); \
  }
SEQKERN_ISA_LEVELS
#undef X

const TrainKernels& train_kernels(Storage storage) {
#define X(level) level::fill_train_kernels,
  static const LevelTables<TrainKernels> tables({SEQKERN_ISA_LEVELS});
#undef X
  return tables.in_use(storage);
}

}  // namespace seqkern
