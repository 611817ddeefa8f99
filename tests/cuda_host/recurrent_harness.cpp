// What the recurrent layers' host side asks of CUDA, for the emulator. With this, and compiled as
// C++, csrc/recurrent/*_cuda.cu make the operators seqkern_emulated::lstm_forward and so on, for
// CPU tensors; C functions for recurrent_operators.py say how their loops are spread.
#include "recurrent/cuda/layer.h"

using namespace seqkern;

namespace {

// How a loop is to be spread, instead of the plan's own choice.
struct Cut {
  bool resident;
  int row_warps, depth_warps, group_rows;
  int64_t shared_bytes;  // of a block
  bool together;         // all loops of a call in one launch
  int wave;              // layers of a stack
};
Cut cut = {true, 1, 2, 8, 227 * 1024, true, 1};

}  // namespace

namespace seqkern {

device::Stream stream_of(const Tensor&) {
  return {};
}

LoopPlan plan_of(const LoopShape& shape, const Tensor&) {
  LoopPlan plan{};
  plan.resident = cut.resident;
  plan.tasks = cut.together || shape.chain ? shape.tasks : 1;
  plan.row_warps = cut.row_warps;
  plan.depth_warps = cut.depth_warps;
  plan.unit_blocks =
      static_cast<int>(ceil_div(shape.hidden, int64_t{cut.row_warps} * shape.units_a_warp));
  plan.group_rows = cut.group_rows;
  plan.groups = static_cast<int>(ceil_div(std::max<int64_t>(1, shape.batch), cut.group_rows));
  weigh(shape, {132, cut.shared_bytes, true}, &plan);
  return plan;
}

int wave_of(const LoopShape&, const LoopShape&, int64_t layers, double, const Tensor&) {
  return static_cast<int>(std::min<int64_t>(cut.wave, layers));
}

bool capturing(const Tensor&) {
  return false;
}

}  // namespace seqkern

#pragma GCC visibility push(default)
extern "C" {

void set_cut(const Cut* wanted) {
  cut = *wanted;
}

void set_seed(uint64_t seed) {
  emulator::set_seed(seed);
}

int plan_layers(const LoopShape* alone, const LoopShape* chained, int64_t layers, double flops,
                const GpuLimits* gpu) {
  return plan_wave(*alone, *chained, layers, flops, *gpu);
}

void plan(const LoopShape* shape, const GpuLimits* gpu, LoopPlan* result) {
  *result = plan_loop(*shape, *gpu);
}

}  // extern "C"
#pragma GCC visibility pop
