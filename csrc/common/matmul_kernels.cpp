#include "common/matmul_kernels.h"

#include "common/level_table.h"

namespace seqkern {

#define X(level)                            \
  namespace level {                         \
  void fill_matmul_kernels(MatmulKernels*); \
  }
SEQKERN_ISA_LEVELS
#undef X

const MatmulKernels& matmul_kernels(Storage storage) {
#define X(level) level::fill_matmul_kernels,
  static const LevelTables<MatmulKernels> tables({SEQKERN_ISA_LEVELS});
#undef X
  return tables.in_use(storage);
}

}  // namespace seqkern
