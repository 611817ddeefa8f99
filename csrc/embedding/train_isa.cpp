// The trainer's kernels of one ISA level; compiled once per level.
#include "embedding/train_models.h"

namespace seqkern {
namespace SEQKERN_ISA {

void fill_train_kernels(TrainKernels* by_storage) {
  by_storage[int(Storage::kFloat)] = {scratch_bytes, run<float>};
  by_storage[int(Storage::kBfloat16)] = {scratch_bytes, run<bfloat16>};
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
