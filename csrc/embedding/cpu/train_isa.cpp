// The trainer's kernels of one ISA level; compiled once per level.
#include "common/isa.h"
#include "embedding/cpu/train_deterministic.h"

namespace seqkern {
namespace SEQKERN_ISA {

template <class S>
TrainKernels train_kernels() {
  return {scratch_bytes, begin<S>, run<S>, finish<S>, propose<S>, accept<S>};
}

// Fills the table that train_kernels() reads. A level that has nothing new for a type leaves its
// entry as the level below filled it: AVX512-BF16 only rounds anew what is written to the tables,
// AMX does nothing here.
void fill_train_kernels([[maybe_unused]] TrainKernels* by_storage) {
#if !SEQKERN_ISA_FROM(avx512_bf16)
  by_storage[int(Storage::kFloat)] = train_kernels<float>();
  by_storage[int(Storage::kBfloat16)] = train_kernels<bfloat16>();
#elif !SEQKERN_ISA_FROM(amx)
  TrainKernels& kernels = by_storage[int(Storage::kBfloat16)];
  kernels.run = run<bfloat16>;
  kernels.finish = finish<bfloat16>;
  kernels.accept = accept<bfloat16>;
#endif
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
