#include "attention/cpu/kernels.h"

#include "common/level_table.h"

namespace seqkern {

#define X(level)                                  \
  namespace level {                               \
  void fill_attention_kernels(AttentionKernels*); \
  }
SEQKERN_ISA_LEVELS
#undef X

const AttentionKernels& attention_kernels(Storage storage) {
#define X(level) level::fill_attention_kernels,
  static const LevelTables<AttentionKernels> tables({SEQKERN_ISA_LEVELS});
#undef X
  return tables.in_use(storage);
}

}  // namespace seqkern
