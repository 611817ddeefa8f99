// The kernels of a single step of one ISA level; compiled once per level.
#include "common/isa.h"
#include "recurrent/cpu/step_backward.h"
#include "recurrent/cpu/step_forward.h"

namespace seqkern {
namespace SEQKERN_ISA {

template <class Forward, class Backward>
constexpr StepKernels step_kernels() {
  using Shape = typename Forward::Shape;
  return {step_forward_rows<Shape>, kProductRows, step_operand_bytes<Shape>, step_forward<Forward>,
          step_backward<Backward>};
}

template <class S>
void fill(StepKernels* by_cell) {
  by_cell[int(Cell::kLstm)] = step_kernels<LstmStep<S>, LstmStepBackward<S>>();
  by_cell[int(Cell::kGru)] = step_kernels<GruStep<S>, GruStepBackward<S>>();
  by_cell[int(Cell::kRnnTanh)] = step_kernels<RnnStep<S, false>, RnnStepBackward<S, false>>();
  by_cell[int(Cell::kRnnRelu)] = step_kernels<RnnStep<S, true>, RnnStepBackward<S, true>>();
}

// Fills the table that step_kernels() reads. A level that has nothing new for a type leaves its
// entries as the level below filled them: AVX512-BF16 only rounds anew, AMX does nothing here.
void fill_step_kernels([[maybe_unused]] StepKernels (*by_storage)[kCells]) {
#if !SEQKERN_ISA_FROM(avx512_bf16)
  fill<float>(by_storage[int(Storage::kFloat)]);
  fill<double>(by_storage[int(Storage::kDouble)]);
#endif
#if !SEQKERN_ISA_FROM(amx)
  fill<bfloat16>(by_storage[int(Storage::kBfloat16)]);
#endif
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
