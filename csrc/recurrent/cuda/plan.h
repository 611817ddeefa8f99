// How a layer's loop over time is spread over a GPU: plain C++, so that tests need none.
//
// The loop is one kernel (loop.cuh) with two ways through time:
//   - resident: one cooperative launch for all steps. Each warp keeps its part of the recurrent
//     weights in registers, more of it in shared memory, and reads only what is left at each step;
//     the blocks that share rows of the batch meet at a barrier after each step.
//   - by steps: a launch for each step, for GPUs without cooperative launch and for the few shapes
//     where more blocks than fit at once are faster. Nothing outlives a step but the states.
// A cost model chooses among all ways to cut the layer. Its constants are arithmetic from data
// sheets and published latencies, not measured; they decide speed, never results.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "common/ceil_div.h"
#include "recurrent/cuda/tile.h"

namespace seqkern {

struct GpuLimits {
  int processors;        // SMs
  int64_t shared_bytes;  // that one block may have
  bool cooperative;      // whether all blocks of a launch may wait for each other
};

struct LoopShape {
  int units_a_warp;  // hidden units whose sums one warp forms
  int row_tiles;     // of 16 rows of the weights, in one warp
  int kept_chunks;   // chunks of its weights that a warp keeps in registers
  int64_t hidden;    // H
  int64_t depth;     // of the product: H forward, gates * H backward
  int64_t batch;
  int64_t steps;
  int tasks;   // loops of this shape that may run side by side
  bool chain;  // they are a wave: each waits for the one before, so all have to run at once
  int element_bytes;
  int products;  // of tensor-core operands for one product: 3 where TF32 is not enough
};

struct LoopPlan {
  bool resident;
  int tasks;          // loops that one launch runs side by side: 1 or all of them
  int row_warps;      // warps of a block side by side over the units
  int depth_warps;    // warps that share the depth of each product
  int unit_blocks;    // blocks side by side over the units
  int groups;         // groups of blocks, each with rows of the batch of its own
  int group_rows;     // at most, a multiple of 8
  int shared_chunks;  // of a warp's weights, after those in registers
  int64_t shared_bytes;
  double step_ns;  // what the model expects of a step

  int threads() const { return row_warps * depth_warps * kWarpThreads; }
  int blocks() const { return unit_blocks * groups; }  // of one loop
};

// Chunks of the product's depth, and how many of them the busiest warp has.
inline int64_t depth_chunks(int64_t depth, int element_bytes) {
  return ceil_div(depth * element_bytes, kChunkBytes);
}

// Bytes of one chunk of one warp's weights.
inline int64_t chunk_weight_bytes(int row_tiles) {
  return int64_t{row_tiles} * kTileRows * kChunkBytes;
}

// Where the warps of a block add up their sums.
inline int64_t partial_sum_bytes(int row_tiles, int warps) {
  return int64_t{warps} * row_tiles * kTileRows * kSumStride * static_cast<int64_t>(sizeof(float));
}

namespace plan_cost {

// From the launch of a kernel to that of the next one in the same stream, and of a cooperative one.
constexpr double kLaunchNs = 2500, kCooperativeNs = 8000;
// A barrier through L2: a write, and a read that sees it.
constexpr double kBarrierNs = 900;
// Reading from L2, multiplying, meeting in shared memory, the cell: the part of
// a pass over at most 32 rows that is latency.
constexpr double kPassNs = 900;
// One SM: 64 bytes a cycle from L2, 128 from shared memory; an
// m16n8k16 in each quarter every 8 cycles; 1.7 GHz.
constexpr double kCacheBytesPerNs = 64 * 1.7, kSharedBytesPerNs = 128 * 1.7;
constexpr double kTileProductNs = 8 / 1.7 / 4;
// And what a library product reaches there, in FLOPs: 16 bits, TF32, float32 without tensor cores.
constexpr double kHalfFlopsPerNs = 2048 * 1.7, kTf32FlopsPerNs = 1024 * 1.7;
constexpr double kFloatFlopsPerNs = 256 * 1.7;

}  // namespace plan_cost

// The cost of one step of a plan whose cut is set; fills shared_chunks, shared_bytes and step_ns.
inline void weigh(const LoopShape& shape, const GpuLimits& gpu, LoopPlan* plan) {
  using namespace plan_cost;
  const int warps = plan->row_warps * plan->depth_warps;
  const int64_t chunks =
      ceil_div(depth_chunks(shape.depth, shape.element_bytes), plan->depth_warps);
  const int64_t chunk_bytes = chunk_weight_bytes(shape.row_tiles) * warps;
  const int64_t sums = partial_sum_bytes(shape.row_tiles, warps);
  const int64_t beyond = std::max<int64_t>(0, chunks - shape.kept_chunks);
  int64_t in_shared = 0;
  if (plan->resident)
    in_shared = std::clamp<int64_t>((gpu.shared_bytes - sums) / chunk_bytes, 0, beyond);
  plan->shared_chunks = static_cast<int>(in_shared);
  plan->shared_bytes = sums + in_shared * chunk_bytes;

  const int64_t passes = ceil_div(plan->group_rows, kPassRows);
  const int64_t multiplies = ceil_div(plan->group_rows, kMultiplyRows);
  const int64_t read_again = plan->resident ? beyond - in_shared : chunks;
  // Each warp beside another over the units reads the states once more.
  const double state_bytes =
      static_cast<double>(plan->group_rows) * shape.depth * shape.element_bytes * plan->row_warps;
  const double weight_bytes = static_cast<double>(read_again * chunk_bytes) * multiplies;
  const double shared_weight_bytes = static_cast<double>(in_shared * chunk_bytes) * multiplies;
  const double products = static_cast<double>(chunks) * 2 * shape.row_tiles * warps *
                          shape.products * ceil_div(plan->group_rows, kTileColumns);
  const int64_t blocks = int64_t{plan->blocks()} * plan->tasks;
  const double waves = static_cast<double>(ceil_div(blocks, gpu.processors));
  const double work = passes * kPassNs + (state_bytes + weight_bytes) / kCacheBytesPerNs +
                      shared_weight_bytes / kSharedBytesPerNs + products * kTileProductNs;
  plan->step_ns = plan->resident ? kBarrierNs + work : kLaunchNs + waves * work;
}

// The fastest plan of those that run `tasks` loops in a launch, and what it takes for all loops.
inline void plan_tasks(const LoopShape& shape, const GpuLimits& gpu, int tasks, LoopPlan* best,
                       double* best_ns) {
  using namespace plan_cost;
  const double steps = static_cast<double>(shape.steps + (shape.chain ? tasks - 1 : 0));
  const double launches = static_cast<double>(ceil_div(shape.tasks, tasks));
  for (const bool resident : {true, false}) {
    if (resident && !gpu.cooperative) continue;
    for (int row_warps = 1; row_warps <= kMostWarps; row_warps *= 2) {
      LoopPlan plan{};
      plan.resident = resident;
      plan.tasks = tasks;
      plan.row_warps = row_warps;
      plan.depth_warps = kMostWarps / row_warps;
      plan.unit_blocks =
          static_cast<int>(ceil_div(shape.hidden, int64_t{row_warps} * shape.units_a_warp));
      if (partial_sum_bytes(shape.row_tiles, kMostWarps) > gpu.shared_bytes) continue;
      const int64_t row_groups = ceil_div(std::max<int64_t>(1, shape.batch), kTileColumns);
      int64_t most = row_groups;
      if (resident) most = std::min<int64_t>(most, gpu.processors / plan.unit_blocks / tasks);
      for (int64_t groups = 1; groups <= most; ++groups) {
        const int64_t rows = ceil_div(row_groups, groups) * kTileColumns;
        plan.group_rows = static_cast<int>(rows);
        plan.groups = static_cast<int>(ceil_div(std::max<int64_t>(1, shape.batch), rows));
        if (plan.groups != groups) continue;  // another cut into as many rows has fewer groups
        weigh(shape, gpu, &plan);
        const double start = resident
                                 ? kCooperativeNs + static_cast<double>(shape.depth) * row_warps *
                                                        shape.row_tiles * kTileRows *
                                                        shape.element_bytes / kCacheBytesPerNs
                                 : 0;
        const double total = launches * (start + steps * plan.step_ns);
        if (total < *best_ns) {
          *best_ns = total;
          *best = plan;
        }
      }
    }
  }
}

// The fastest plan by the model. There is always one: a launch for each step runs any shape. Loops
// side by side share the SMs, so where the weights of one fill the GPU, one after the
// other is faster.
inline LoopPlan plan_loop(const LoopShape& shape, const GpuLimits& gpu) {
  LoopPlan best{};
  double best_ns = std::numeric_limits<double>::infinity();
  plan_tasks(shape, gpu, shape.tasks, &best, &best_ns);
  if (shape.tasks > 1 && !shape.chain) plan_tasks(shape, gpu, 1, &best, &best_ns);
  return best;
}

// How many layers of a stack are to run as a wave. `alone`: the loop of a single layer; `chained`:
// that of a layer in a wave, whose product has the input beside the state; `projection_flops`: of
// the library product that a layer needs for that otherwise. Layers above the first of a wave spare
// that product and the time of a loop, but share the SMs.
inline int plan_wave(const LoopShape& alone, LoopShape chained, int64_t layers,
                     double projection_flops, const GpuLimits& gpu) {
  using namespace plan_cost;
  const double flops_per_ns = alone.element_bytes == 2 ? kHalfFlopsPerNs
                              : alone.products == 1    ? kTf32FlopsPerNs
                                                       : kFloatFlopsPerNs;
  const double projection_ns = kLaunchNs + projection_flops / (flops_per_ns * gpu.processors);
  const int most = static_cast<int>(std::min<int64_t>(layers, kMostTasks));
  double wave_ns[kMostTasks + 1] = {};  // by the number of layers
  for (int count = 1; count <= most; ++count) {
    LoopPlan plan;
    wave_ns[count] = std::numeric_limits<double>::infinity();
    chained.tasks = count;
    plan_tasks(count == 1 ? alone : chained, gpu, count, &plan, &wave_ns[count]);
    wave_ns[count] += projection_ns;
  }
  int best = 1;
  double best_ns = std::numeric_limits<double>::infinity();
  for (int count = 1; count <= most; ++count) {
    const double total =
        static_cast<double>(layers / count) * wave_ns[count] + wave_ns[layers % count];
    if (total < best_ns) {
      best_ns = total;
      best = count;
    }
  }
  return best;
}

}  // namespace seqkern
