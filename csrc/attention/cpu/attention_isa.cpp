// The attention kernels of one ISA level; compiled once per level.
#include "attention/cpu/backward.h"
#include "attention/cpu/bf16_tiles.h"
#include "attention/cpu/forward.h"
#include "attention/cpu/weights.h"
#include "common/isa.h"

namespace seqkern {
namespace SEQKERN_ISA {

template <class T>
AttentionKernels kernels() {
  return {forward_shared<T>,  forward_own<T>,     forward<T>,      weights_own<T>, weights<T>,
          combine_weights<T>, backward_shared<T>, backward_own<T>, backward<T>,    dropout_mask};
}

// Fills the table that attention_kernels() reads. A level that has nothing new for a type leaves
// its entry as the level below filled it.
void fill_attention_kernels(AttentionKernels* by_storage) {
#if !SEQKERN_ISA_FROM(avx512_bf16)
  by_storage[int(Storage::kFloat)] = kernels<FmaTiles<float>>();
  by_storage[int(Storage::kDouble)] = kernels<FmaTiles<double>>();
  by_storage[int(Storage::kBfloat16)] = kernels<FmaTiles<bfloat16>>();
#else
  by_storage[int(Storage::kBfloat16)] = kernels<Bf16Tiles>();
#endif
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
