#include "recurrent/kernels.h"

#include "common/level_table.h"

namespace seqkern {

#define X(level)                                  \
  namespace level {                               \
  void fill_recurrent_kernels(RecurrentKernels*); \
  }
SEQKERN_ISA_LEVELS
#undef X

const RecurrentKernels& recurrent_kernels(Storage storage) {
#define X(level) level::fill_recurrent_kernels,
  static const LevelTables<RecurrentKernels> tables({SEQKERN_ISA_LEVELS});
#undef X
  return tables.in_use(storage);
}

}  // namespace seqkern
