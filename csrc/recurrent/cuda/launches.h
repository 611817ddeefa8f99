// How the loops over time of layers on a GPU are spread and launched: their weights as the kernels
// want them, the workspace, and the launches that the plan decides on.
#pragma once

#include <vector>

#include "recurrent/cuda/layer.h"
#include "recurrent/cuda/prepare_kernels.cuh"

namespace seqkern {

// The weights as the loop wants their rows; a copy unless they lie so already.
inline Tensor loop_weights(const CudaLayer& layer, const Tensor& weights) {
  const int64_t rows = weights.size(0), depth = weights.size(1);
  const int64_t aligned = 16 / static_cast<int64_t>(weights.element_size());
  const int64_t stride = round_up(depth, aligned);
  const auto address = reinterpret_cast<uintptr_t>(weights.const_data_ptr());
  if (stride == depth && weights.is_contiguous() && address % 16 == 0) return weights;
  Tensor copy = layer.make({rows, stride});
  if (stride > depth) torch::stable::zero_(copy);
  Tensor inside = matrix(copy, rows, depth, stride, 1);
  torch::stable::copy_(inside, weights);
  return copy;
}

// A Work's loop of `depth`, for layers like this one; `tasks` of them.
template <class S, class Work>
LoopShape loop_shape(const CudaLayer& layer, int64_t depth, int64_t iterations, int64_t tasks,
                     bool chain) {
  LoopShape shape{};
  shape.units_a_warp = Work::kUnits;
  shape.row_tiles = Work::kRowTiles;
  shape.kept_chunks = Work::kKeptChunks;
  shape.hidden = layer.sizes.hidden;
  shape.depth = depth;
  shape.batch = layer.batch;
  shape.steps = iterations;
  shape.tasks = static_cast<int>(tasks);
  shape.chain = chain;
  shape.element_bytes = static_cast<int>(sizeof(S));
  shape.products = layer.precise() ? 3 : 1;
  return shape;
}

// A depth padded to whole chunks.
template <class S>
int64_t padded(int64_t depth) {
  return round_up(depth, kChunkDepth<S>);
}

// The loops of one or several layers of the same shape, for a Work (see loop.cuh). In a
// `chain`, each one feeds the next. What a Work wants beside its Loop is filled in between
// construction and run().
template <class S, class Work>
class Launches {
 public:
  // `weights`: for each layer a row of them for each sum that a unit wants. In a chain, those of
  // all layers but the first have after those for the loop's own states, padded, those for what
  // the loop before makes.
  Launches(const std::vector<const CudaLayer*>& layers, const std::vector<Tensor>& weights,
           int64_t more_iterations, bool chain, Operands* operands)
      : works(layers.size()),
        preparations(layers.size()),
        layer_(*layers[0]),
        chain_(chain),
        slots_(chain ? kChainSlots : 2),
        iterations_(layer_.steps() + more_iterations) {
    const int64_t tasks = static_cast<int64_t>(layers.size());
    const int64_t own = padded<S>(weights[0].size(1));
    plan_ = plan_of(loop_shape<S, Work>(layer_, weights.back().size(1), iterations_, tasks, chain),
                    layer_.input);

    stride_ = chain ? 2 * own : own;
    exchange_ = layer_.make({tasks, slots_, layer_.batch, stride_});
    arrived_ = layer_.make({tasks, plan_.blocks()}, ScalarType::Int);
    S* exchange = operands->out<S>("exchange", exchange_);
    uint32_t* arrived = operands->out<uint32_t>("arrived", arrived_);
    for (int64_t i = 0; i < tasks; ++i) {
      weights_.push_back(loop_weights(*layers[i], weights[i]));
      Loop<S>& loop = works[i].loop;
      loop.steps = layers[i]->loop_steps(operands);
      loop.hidden = layer_.sizes.hidden;
      loop.weights = operands->in<S>("weights", weights_.back());
      loop.depth = weights[i].size(1);
      loop.weights_stride = weights_.back().stride(0);
      loop.precise = layer_.precise();
      loop.exchange = exchange + i * slots_ * layer_.batch * stride_;
      loop.exchange_stride = stride_;
      loop.slots = slots_;
      loop.arrived = arrived + i * plan_.blocks();
      if (chain && i > 0) {
        Loop<S>& before = works[i - 1].loop;
        before.next = loop.exchange + own;
        before.next_arrived = loop.arrived;
        loop.before_arrived = before.arrived;
      }
      loop.unit_blocks = plan_.unit_blocks;
      loop.row_warps = plan_.row_warps;
      loop.depth_warps = plan_.depth_warps;
      loop.group_rows = plan_.group_rows;
      loop.shared_chunks = plan_.shared_chunks;
      loop.resident = plan_.resident;
      preparations[i].exchange = loop.exchange;
      preparations[i].arrived = loop.arrived;
    }
  }

  std::vector<Work> works;                   // one for each layer
  std::vector<Preparation<S>> preparations;  // `first` and the biases are the caller's to set

  void run(void (*kernel)(Tasks<Work>)) {
    prepare();
    for (size_t first = 0; first < works.size(); first += plan_.tasks) {
      Tasks<Work> tasks{};
      tasks.blocks = plan_.blocks();
      std::copy_n(works.begin() + first, plan_.tasks, tasks.task);
      run(kernel, tasks);
    }
  }

 private:
  void prepare() {
    Preparations<S> all{};
    all.tasks = static_cast<int>(preparations.size());
    all.batch = layer_.batch;
    all.hidden = layer_.sizes.hidden;
    all.slots = slots_;
    all.exchange_stride = stride_;
    all.blocks = plan_.blocks();
    all.gates = layer_.gates;
    all.summed_gates = layer_.cell == Cell::kGru ? 2 : layer_.gates;
    std::copy(preparations.begin(), preparations.end(), all.task);
    constexpr int kThreads = 256, kMostBlocks = 1024;  // the kernel loops over the rest
    const int64_t blocks = ceil_div(layer_.batch * stride_, kThreads);
    const device::Grid grid{static_cast<int>(std::clamp<int64_t>(blocks, 1, kMostBlocks)),
                            kThreads};
    device::launch(prepare_kernel<S>, grid, stream_of(layer_.input), all);
  }

  void run(void (*kernel)(Tasks<Work>), Tasks<Work>& tasks) {
    const device::Grid grid{plan_.blocks() * plan_.tasks, plan_.threads(),
                            static_cast<int>(plan_.shared_bytes)};
    const device::Stream stream = stream_of(layer_.input);
    if (plan_.resident) {
      for (int i = 0; i < plan_.tasks; ++i) {
        tasks.task[i].loop.first = 0;
        tasks.task[i].loop.end = iterations_;
      }
      return device::launch_cooperative(kernel, grid, stream, tasks);
    }
    // In a chain, each loop is a step behind the one before.
    const int64_t lag = chain_ ? 1 : 0, launches = iterations_ + lag * (plan_.tasks - 1);
    for (int64_t launch = 0; launch < launches; ++launch) {
      for (int i = 0; i < plan_.tasks; ++i) {
        tasks.task[i].loop.first = std::clamp<int64_t>(launch - i * lag, 0, iterations_);
        tasks.task[i].loop.end = std::clamp<int64_t>(launch - i * lag + 1, 0, iterations_);
      }
      device::launch(kernel, grid, stream, tasks);
    }
  }

  const CudaLayer& layer_;
  const bool chain_;
  const int64_t slots_, iterations_;
  int64_t stride_ = 0;
  LoopPlan plan_;
  std::vector<Tensor> weights_;
  Tensor exchange_, arrived_;
};

}  // namespace seqkern
