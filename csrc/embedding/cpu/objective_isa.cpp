// The kernels of word vectors of one ISA level; compiled once per level.
#include "common/isa.h"
#include "embedding/cpu/objective_adam.h"
#include "embedding/cpu/objective_examples.h"
#include "embedding/cpu/objective_rows.h"

namespace seqkern {
namespace SEQKERN_ISA {

template <class S>
ObjectiveKernels objective_kernels_of() {
  return {objective_scratch_bytes<S>,
          objective_examples<S>,
          sums_compact<S>,
          sums_dense<S>,
          sums_added<S>,
          bag_vectors<S>,
          adam_rows<S>};
}

// Fills the table that objective_kernels() reads. A level that has nothing new for a type leaves
// its entry as the level below filled it: AVX512-BF16 only rounds anew, AMX does nothing here.
void fill_objective_kernels([[maybe_unused]] ObjectiveKernels* by_storage) {
#if !SEQKERN_ISA_FROM(avx512_bf16)
  by_storage[int(Storage::kFloat)] = objective_kernels_of<float>();
  by_storage[int(Storage::kDouble)] = objective_kernels_of<double>();
#endif
#if !SEQKERN_ISA_FROM(amx)
  by_storage[int(Storage::kBfloat16)] = objective_kernels_of<bfloat16>();
#endif
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
