// The kernels of every ISA level in one table, from which the level in use is read: what the
// *_kernels.cpp files do with the functions that their *_isa.cpp files fill tables by.
//
//   #define X(level) namespace level { void fill_matmul_kernels(MatmulKernels*); }
//   SEQKERN_ISA_LEVELS
//   #undef X
//
//   #define X(level) level::fill_matmul_kernels,
//   static const LevelTables<MatmulKernels> tables({SEQKERN_ISA_LEVELS});
//   #undef X
//
// (For ordinary files only: see build_tools/libraries.py on functions of shared headers.)
#pragma once

#include "common/isa.h"
#include "common/storage.h"

namespace seqkern {

// Kernels: what a level has for a storage type, a struct of functions or an array of such.
template <class Kernels>
class LevelTables {
 public:
  using Fill = void (*)(Kernels* by_storage);

  // fill: of the levels that were compiled, low to high. Each level starts from the one below and
  // fills in what it has anew. Levels that the machine lacks are not asked: that is code of the
  // level.
  explicit LevelTables(const Fill (&fill)[kIsaLevels]) {
    Table table{};
    for (int level = 0; level < kIsaLevels; ++level) {
      if (isa_available(static_cast<Isa>(level))) fill[level](table.by_storage);
      tables_[level] = table;
    }
  }

  // The kernels of the level in use.
  const Kernels& in_use(Storage storage) const {
    return tables_[static_cast<int>(isa_in_use())].by_storage[static_cast<int>(storage)];
  }

 private:
  struct Table {
    Kernels by_storage[kStorages];
  };
  Table tables_[kIsaLevels];
};

}  // namespace seqkern
