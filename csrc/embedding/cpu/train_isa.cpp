// The trainer's kernels of one ISA level; compiled once per level.
#include "embedding/cpu/train_deterministic.h"

namespace seqkern {
namespace SEQKERN_ISA {

template <class S>
TrainKernels train_kernels() {
  return {scratch_bytes, begin<S>, run<S>, finish<S>, propose<S>, accept<S>};
}

// A level that has nothing new for a type leaves its entry as the level below filled it.
void fill_train_kernels([[maybe_unused]] TrainKernels* by_storage) {
#ifndef __AVX512BF16__
  by_storage[int(Storage::kFloat)] = train_kernels<float>();
#endif
#ifndef __AMX_BF16__
  by_storage[int(Storage::kBfloat16)] = train_kernels<bfloat16>();
#endif
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
