#include "attention/cpu/decode_kernels.h"

#include "common/level_table.h"

namespace seqkern {

#define X(level)                            \
  namespace level {                         \
  void fill_decode_kernels(DecodeKernels*); \
  }
SEQKERN_ISA_LEVELS
#undef X

const DecodeKernels& decode_kernels(Storage storage) {
#define X(level) level::fill_decode_kernels,
  static const LevelTables<DecodeKernels> tables({SEQKERN_ISA_LEVELS});
#undef X
  return tables.in_use(storage);
}

}  // namespace seqkern
