// The kernels of a single step of one ISA level; compiled once per level.
#include "common/isa.h"
#include "recurrent/cpu/step_backward.h"
#include "recurrent/cpu/step_forward.h"
#include "recurrent/cpu/step_tiles.h"

namespace seqkern {
namespace SEQKERN_ISA {

template <class Forward, class Backward>
constexpr StepKernels step_kernels() {
  using Shape = typename Forward::Shape;
  return {{{},
           {step_forward_takes<Shape>, step_operand_bytes<Shape>, step_forward_work<Shape>,
            step_forward<Forward>}},
          kProductRows,
          step_backward<Backward>};
}

template <class S>
void fill(StepKernels* by_cell) {
  by_cell[int(Cell::kLstm)] = step_kernels<LstmStep<S>, LstmStepBackward<S>>();
  by_cell[int(Cell::kGru)] = step_kernels<GruStep<S>, GruStepBackward<S>>();
  by_cell[int(Cell::kRnnTanh)] = step_kernels<RnnStep<S, false>, RnnStepBackward<S, false>>();
  by_cell[int(Cell::kRnnRelu)] = step_kernels<RnnStep<S, true>, RnnStepBackward<S, true>>();
}

#if SEQKERN_ISA_FROM(amx)

template <class Forward>
constexpr StepForward tiled_forward() {
  return {step_tiled_takes, step_tiled_bytes, step_tiled_work<typename Forward::Shape>,
          step_forward_tiled<Forward>};
}

void add_tiled(StepKernels* by_cell) {
  using S = bfloat16;
  by_cell[int(Cell::kLstm)].forward[0] = tiled_forward<LstmStep<S>>();
  by_cell[int(Cell::kGru)].forward[0] = tiled_forward<GruStep<S>>();
  by_cell[int(Cell::kRnnTanh)].forward[0] = tiled_forward<RnnStep<S, false>>();
  by_cell[int(Cell::kRnnRelu)].forward[0] = tiled_forward<RnnStep<S, true>>();
}

#endif

// Fills the table that step_kernels() reads. A level that has nothing new for a type leaves its
// entries as the level below filled them: AVX512-BF16 only rounds anew, AMX adds its tiles.
void fill_step_kernels([[maybe_unused]] StepKernels (*by_storage)[kCells]) {
#if !SEQKERN_ISA_FROM(avx512_bf16)
  fill<float>(by_storage[int(Storage::kFloat)]);
  fill<double>(by_storage[int(Storage::kDouble)]);
#endif
#if SEQKERN_ISA_FROM(amx)
  add_tiled(by_storage[int(Storage::kBfloat16)]);
#else
  fill<bfloat16>(by_storage[int(Storage::kBfloat16)]);
#endif
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
