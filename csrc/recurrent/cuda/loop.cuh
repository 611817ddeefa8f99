// The loop over time of a layer on a GPU, for every cell and both directions of differentiation:
// what forward and backward have in common. plan.h says how it is spread over a device.
//
// A step is a product D = M x: M holds recurrent weights, a row for each sum that a hidden unit
// wants, and x a column for each row of the batch, read from the exchange. The exchange is two
// buffers (batch, depth padded to whole chunks): step i reads buffer i % 2, which all blocks wrote
// at step i - 1, and writes the other (in a wave there are more buffers). A block owns some units
// and some rows of the batch. Its warps form sums of tensor-core products over a part of the depth
// each, add them up in shared memory, and its threads apply the cell.
//
// A launch may run several loops side by side, each with blocks of its own: the two directions of a
// bidirectional layer, or the layers of a stack as a wave. There, a loop writes what it makes of a
// step into the exchange of the next one as well, beside the next one's own states, whose product
// is as much deeper; the next one waits for each step of the loop before it.
//
// Both operands of a tensor-core product may number the depth in any order as long as it is the
// same one. The order here gives each thread 16 consecutive bytes of a chunk, so it takes its part
// of an operand straight from memory with one wide read: no shuffle, no ldmatrix.
#pragma once

#include <cstdint>

#include "common/ceil_div.h"
#include "common/device.cuh"
#include "recurrent/cuda/tile.h"

#ifdef __CUDACC__
#define SEQKERN_NO_UNROLL _Pragma("unroll 1")
// A kernel's blocks have at most so many threads, so each may have that share of the registers.
#define SEQKERN_MOST_THREADS(count) __launch_bounds__(count, 1)
#else
#define SEQKERN_NO_UNROLL
#define SEQKERN_MOST_THREADS(count)
#endif

namespace seqkern {

// Which rows of the (row, feature) tensors a step works on. Steps are numbered in the order of the
// forward pass: a reversed sequence starts at its end.
struct LoopSteps {
  int64_t count, batch;
  bool reverse;
  // For packed sequences: for each time how many rows are alive, then where the first one lies.
  const int64_t* table;

  // 0 for steps that there are not.
  SEQKERN_DEVICE int64_t alive(int64_t step) const {
    if (step < 0 || step >= count) return 0;
    return table ? device::read(table + time(step)) : batch;
  }
  SEQKERN_DEVICE int64_t offset(int64_t step) const {
    if (step < 0 || step >= count) return 0;
    return table ? device::read(table + count + time(step)) : time(step) * batch;
  }

 private:
  SEQKERN_DEVICE int64_t time(int64_t step) const { return reverse ? count - 1 - step : step; }
};

template <class S>
struct Loop {
  LoopSteps steps;
  int64_t hidden;  // H
  // Rows of `depth`, weights_stride apart. A row begins at a multiple of 16 bytes, and between its
  // end and the next such multiple there are zeros.
  const S* weights;
  int64_t depth, weights_stride;
  bool precise;  // float32: three products of TF32 numbers instead of one
  S* exchange;   // (slots, batch, exchange_stride)
  int64_t exchange_stride, slots;
  uint32_t* arrived;  // how many steps each block of this loop has finished, 0 at the launch
  // In a wave: the words of the loop before this one, null for the first; where in its exchange the
  // next loop wants this one's results, and its words, null for the last.
  const uint32_t* before_arrived;
  S* next;
  const uint32_t* next_arrived;
  int unit_blocks, row_warps, depth_warps, group_rows, shared_chunks;
  bool resident;
  int64_t first, end;  // the iterations of this launch
};

// The loops of a launch: the first `blocks` blocks run the first one, and so on.
template <class Work>
struct Tasks {
  int blocks;
  Work task[kMostTasks];
};

// One thread's part of a chunk of a tensor-core operand's row.
struct alignas(16) Words {
  uint32_t x, y, z, w;
};

template <class S>
constexpr int kChunkDepth = kChunkBytes / static_cast<int>(sizeof(S));

// How many chunks of its weights a warp keeps in registers: as many as fit beside the sums and the
// states on their way. Float32 wants registers for the parts that it is split into.
template <class S>
constexpr int kept_chunks(int row_tiles) {
  return (sizeof(S) == 2 ? 8 : 2) / row_tiles;
}

// A thread's place in a warp, for operands: its row, and its quarter of a chunk.
SEQKERN_DEVICE int lane_row() {
  return device::lane() / 4;
}
SEQKERN_DEVICE int lane_quarter() {
  return device::lane() % 4;
}

// ---- tensor-core products ----

// A chunk of 16 rows: what a thread holds of them for two products, one after the other.
struct RowTile {
  uint32_t first[4], second[4];
};

SEQKERN_DEVICE RowTile row_tile(const Words& upper, const Words& lower) {
  return {{upper.x, lower.x, upper.y, lower.y}, {upper.z, lower.z, upper.w, lower.w}};
}

// A float32 as the sum of two TF32 numbers, which hold 22 of its 24 bits.
template <int n>
SEQKERN_DEVICE void split(const uint32_t (&bits)[n], uint32_t (&large)[n], uint32_t (&small)[n]) {
  SEQKERN_UNROLL
  for (int i = 0; i < n; ++i) {
    const float x = device::bit_cast<float>(bits[i]);
    large[i] = device::to_tf32(x);
    const float rest = x - device::bit_cast<float>(large[i]);
    small[i] = device::to_tf32(rest == rest ? rest : 0.0f);  // infinity leaves no rest
  }
}

// Float32 as TF32, rounded to nearest; if `precise` by three products of TF32 numbers: what is left
// out of a product is smaller than 2^-21 of it. Tensor cores cut their sums off instead of rounding
// them, so there the sum is formed outside (Ootomo & Yokota 2022).
template <class S>
SEQKERN_DEVICE void add_product(float (&sums)[4], const uint32_t (&rows)[4],
                                const uint32_t (&columns)[2], bool precise) {
  if constexpr (sizeof(S) == 2) {
    device::multiply_add<S>(sums, rows, columns);
  } else {
    uint32_t large_rows[4], small_rows[4], large_columns[2], small_columns[2];
    split(rows, large_rows, small_rows);
    split(columns, large_columns, small_columns);
    float products[4] = {};
    if (precise) {
      device::multiply_add<S>(products, small_rows, large_columns);
      device::multiply_add<S>(products, large_rows, small_columns);
    }
    device::multiply_add<S>(products, large_rows, large_columns);
    SEQKERN_UNROLL
    for (int i = 0; i < 4; ++i) sums[i] += products[i];
  }
}

template <class S>
SEQKERN_DEVICE void add_products(float (&sums)[4], const RowTile& rows, const Words& columns,
                                 bool precise) {
  const uint32_t first[2] = {columns.x, columns.y}, second[2] = {columns.z, columns.w};
  add_product<S>(sums, rows.first, first, precise);
  add_product<S>(sums, rows.second, second, precise);
}

// ---- one warp's part of the product ----

// The chunks of the depth that a warp multiplies: those that are its number modulo depth_warps.
// The first kKept of them keep their weights in registers, the next in shared memory; the rest is
// read at each step. In a launch for a single step nothing is worth keeping in shared memory.
template <class S, class Work>
class Product {
 public:
  static constexpr int kTiles = Work::kRowTiles, kKept = Work::kKeptChunks;

  // `unit_block`: which of the blocks side by side over the units this is.
  SEQKERN_DEVICE Product(const Loop<S>& loop, int unit_block, float* shared)
      : loop_(loop),
        warp_(device::thread() / kWarpThreads),
        row_warp_(warp_ / loop.depth_warps),
        depth_warp_(warp_ % loop.depth_warps),
        first_unit_((unit_block * loop.row_warps + row_warp_) * Work::kUnits) {
    const int warps = loop.row_warps * loop.depth_warps;
    sums_ = shared;
    // A thread's own words stand a warp apart, so that a warp reads consecutive ones.
    weights_ = reinterpret_cast<Words*>(shared + warps * kTiles * kTileRows * kSumStride) +
               static_cast<int64_t>(warp_) * loop.shared_chunks * kTiles * 2 * kWarpThreads +
               device::lane();
    const int64_t chunks = ceil_div(loop.depth, kChunkDepth<S>);
    chunks_ = static_cast<int>(ceil_div(chunks - depth_warp_, loop.depth_warps));
    SEQKERN_UNROLL
    for (int i = 0; i < kKept; ++i) {
      SEQKERN_UNROLL
      for (int tile = 0; tile < kTiles; ++tile)
        kept_[i][tile] = i < chunks_ ? read_weights(i, tile) : RowTile{};
    }
    SEQKERN_NO_UNROLL
    for (int i = 0; i < loop.shared_chunks && kKept + i < chunks_; ++i) {
      SEQKERN_UNROLL
      for (int tile = 0; tile < kTiles; ++tile) {
        const RowTile rows = read_weights(kKept + i, tile);
        Words* to = weights_ + (i * kTiles + tile) * 2 * kWarpThreads;
        const uint32_t (&a)[4] = rows.first;
        const uint32_t (&b)[4] = rows.second;
        device::write(to, Words{a[0], a[1], a[2], a[3]});
        device::write(to + kWarpThreads, Words{b[0], b[1], b[2], b[3]});
      }
    }
  }

  // Forms this warp's sums for `rows` (at most kPassRows) rows of x, which begin at `from`, and
  // leaves them in shared memory.
  SEQKERN_DEVICE void multiply(const S* from, int rows) {
    constexpr int kAhead = sizeof(S) == 2 ? 4 : 2;
    if (rows <= kTileColumns) return multiply<1, 2 * kAhead>(from, rows, 0);
    for (int first = 0; first < rows; first += kMultiplyRows)
      multiply<kMultiplyRows / kTileColumns, kAhead>(from + first * loop_.exchange_stride,
                                                     rows - first, first);
  }

  // Element `row` (of a row warp's) of the finished sum for row `column` of x.
  SEQKERN_DEVICE float sum(int row_warp, int row, int column) const {
    const float* at =
        sums_ + ((row_warp * loop_.depth_warps) * kTiles * kTileRows + row) * kSumStride + column;
    float total = 0;
    for (int i = 0; i < loop_.depth_warps; ++i)
      total += device::load(at + i * kTiles * kTileRows * kSumStride);
    return total;
  }

 private:
  // For the rows of x at `from`, whose sums belong to column `column` and the next ones.
  // kColumnTiles: how many tiles of 8 rows of x there is room for; kAhead: how many chunks of them
  // are on their way at a time.
  template <int kColumnTiles, int kAhead>
  SEQKERN_DEVICE void multiply(const S* from, int rows, int column) {
    Words ring[kAhead][kColumnTiles];
    float sums[kTiles][kColumnTiles][4] = {};
    const auto fetch = [&](int i, Words* to) {
      SEQKERN_UNROLL
      for (int t = 0; t < kColumnTiles; ++t) to[t] = read_state(from, rows, i, t);
    };
    const auto use = [&](const RowTile* weights, const Words* columns) {
      SEQKERN_UNROLL
      for (int t = 0; t < kColumnTiles; ++t) {
        if (t * kTileColumns >= rows) continue;
        SEQKERN_UNROLL
        for (int tile = 0; tile < kTiles; ++tile)
          add_products<S>(sums[tile][t], weights[tile], columns[t], loop_.precise);
      }
    };
    SEQKERN_UNROLL
    for (int i = 0; i < kAhead; ++i) fetch(i, ring[i]);
    SEQKERN_UNROLL
    for (int i = 0; i < kKept; ++i) {
      if (i >= chunks_) break;
      use(kept_[i], ring[i % kAhead]);
      fetch(i + kAhead, ring[i % kAhead]);
    }
    SEQKERN_NO_UNROLL
    for (int first = kKept; first < chunks_; first += kAhead) {
      SEQKERN_UNROLL
      for (int j = 0; j < kAhead; ++j) {
        const int i = first + j;
        if (i >= chunks_) continue;  // not break, for which nvcc would not unroll
        RowTile weights[kTiles];
        SEQKERN_UNROLL
        for (int tile = 0; tile < kTiles; ++tile) weights[tile] = weights_of(i, tile);
        use(weights, ring[(kKept + j) % kAhead]);
        fetch(i + kAhead, ring[(kKept + j) % kAhead]);
      }
    }
    SEQKERN_UNROLL
    for (int t = 0; t < kColumnTiles; ++t) {
      if (t * kTileColumns >= rows) continue;
      SEQKERN_UNROLL
      for (int tile = 0; tile < kTiles; ++tile) {
        float* to = sums_ + ((warp_ * kTiles + tile) * kTileRows + lane_row()) * kSumStride +
                    column + t * kTileColumns + 2 * lane_quarter();
        device::store(to, sums[tile][t][0]);
        device::store(to + 1, sums[tile][t][1]);
        device::store(to + 8 * kSumStride, sums[tile][t][2]);
        device::store(to + 8 * kSumStride + 1, sums[tile][t][3]);
      }
    }
  }

  // Where this warp's chunk i begins in the depth, for this thread.
  SEQKERN_DEVICE int64_t depth_of(int i) const {
    return (static_cast<int64_t>(i) * loop_.depth_warps + depth_warp_) * kChunkDepth<S> +
           lane_quarter() * (kChunkDepth<S> / 4);
  }

  SEQKERN_DEVICE Words read_state(const S* from, int rows, int i, int tile) const {
    const int row = tile * kTileColumns + lane_row();
    if (i >= chunks_ || row >= rows) return Words{0, 0, 0, 0};
    return device::read_shared_cache(
        reinterpret_cast<const Words*>(from + row * loop_.exchange_stride + depth_of(i)));
  }

  SEQKERN_DEVICE RowTile read_weights(int i, int tile) const {
    return row_tile(read_row(i, tile * kTileRows + lane_row()),
                    read_row(i, tile * kTileRows + 8 + lane_row()));
  }

  SEQKERN_DEVICE Words read_row(int i, int row) const {
    const int at = Work::weight_row(first_unit_, row, static_cast<int>(loop_.hidden));
    const int64_t begin = depth_of(i);
    if (at < 0 || begin >= loop_.depth) return Words{0, 0, 0, 0};
    return device::read(
        reinterpret_cast<const Words*>(loop_.weights + int64_t{at} * loop_.weights_stride + begin));
  }

  SEQKERN_DEVICE RowTile weights_of(int i, int tile) const {
    if (i - kKept >= loop_.shared_chunks) return read_weights(i, tile);
    const Words* from = weights_ + ((i - kKept) * kTiles + tile) * 2 * kWarpThreads;
    const Words a = device::read(from), b = device::read(from + kWarpThreads);
    return {{a.x, a.y, a.z, a.w}, {b.x, b.y, b.z, b.w}};
  }

  const Loop<S>& loop_;
  const int warp_, row_warp_, depth_warp_;
  const int first_unit_;
  int chunks_;
  float* sums_;
  Words* weights_;
  RowTile kept_[kKept][kTiles];
};

// ---- the loop ----

// Waits until a step can begin: for the loop's own blocks of this group, in a wave also for those
// of the loop before, and until those of the next loop have read what this step is to overwrite.
// `rounds`: how many steps this group has finished.
template <class S>
SEQKERN_DEVICE void await_others(const Loop<S>& loop, int group, uint32_t rounds) {
  const int count = loop.unit_blocks * (loop.before_arrived || loop.next ? 3 : 1);
  // Each block has a word of its own: nothing is atomic, and no block waits in a queue.
  for (int other = device::thread(); other < count; other += device::threads()) {
    const uint32_t* words = loop.arrived;
    uint32_t wanted = rounds;
    if (other >= 2 * loop.unit_blocks) {
      words = loop.next_arrived;
      wanted = rounds < loop.slots ? 0 : rounds + 1 - static_cast<uint32_t>(loop.slots);
    } else if (other >= loop.unit_blocks) {
      words = loop.before_arrived;
      wanted = rounds + 1;
    }
    if (!words) continue;
    const uint32_t* word = words + group * loop.unit_blocks + other % loop.unit_blocks;
    while (device::load_acquire(word) < wanted) {
    }
  }
  device::barrier();
}

// Work is a cell, forward or backward:
//   kUnits, kRowTiles, kKeptChunks, kSums      see plan.h; sums that a unit wants
//   weight_row(first_unit, row, hidden)        the row of the weights that a warp's row is, or -1
//   sum_row(unit, i)                           the warp's row of a unit's i-th sum
//   struct Step; step(i)                       what an iteration needs to know, and its rows
//   struct Pair                                a unit of a row: what is fetched before the product
//   fetch(step, row, unit), finish(...)        and what becomes of it; `finish` fills the exchange
//                                              and, if there is one, the next loop's
//   save(step, pair, row, unit)                what nobody waits for
// `block` is this block's number among those of the loop.
template <class S, class Work>
SEQKERN_DEVICE void run_loop(const Loop<S>& loop, const Work& work, int block, float* shared) {
  const int group = block / loop.unit_blocks;
  const int unit_block = block % loop.unit_blocks;
  Product<S, Work> product(loop, unit_block, shared);
  const int units = loop.row_warps * Work::kUnits;
  const int64_t first_unit = static_cast<int64_t>(unit_block) * units;
  const int64_t first_row = static_cast<int64_t>(group) * loop.group_rows;
  const int64_t buffer = loop.steps.batch * loop.exchange_stride;
  uint32_t rounds = 0;  // how many steps this group has finished in this launch

  for (int64_t iteration = loop.first; iteration < loop.end; ++iteration) {
    const typename Work::Step step = work.step(iteration);
    if (step.rows <= first_row) continue;  // the same for all blocks of the group
    const int alive = static_cast<int>(
        step.rows - first_row < loop.group_rows ? step.rows - first_row : loop.group_rows);
    const int64_t slot = iteration % loop.slots, next_slot = (iteration + 1) % loop.slots;
    const S* from = loop.exchange + slot * buffer + first_row * loop.exchange_stride;
    S* to = loop.exchange + next_slot * buffer + first_row * loop.exchange_stride;
    S* next = loop.next ? loop.next + slot * buffer + first_row * loop.exchange_stride : nullptr;

    typename Work::Pair pair;
    int pass = 0;  // its first row in the group
    int first_pair = 0;
    for (;;) {
      const int rows = alive - pass < kPassRows ? alive - pass : kPassRows;
      const int number = first_pair + device::thread();
      const int local_unit = number % units, local_row = number / units;
      const int64_t unit = first_unit + local_unit, row = first_row + pass + local_row;
      const bool present = local_row < rows && unit < loop.hidden;
      if (present) pair = work.fetch(step, row, unit);
      if (first_pair == 0) {
        if (pass == 0 && loop.resident && (rounds > 0 || loop.before_arrived))
          await_others(loop, group, rounds);
        product.multiply(from + pass * loop.exchange_stride, rows);
        device::barrier();
      }
      if (present) {
        float sums[Work::kSums];
        SEQKERN_UNROLL
        for (int i = 0; i < Work::kSums; ++i)
          sums[i] = product.sum(local_unit / Work::kUnits,
                                Work::sum_row(local_unit % Work::kUnits, i), local_row);
        const int64_t at = (pass + local_row) * loop.exchange_stride;
        work.finish(step, pair, sums, row, unit, to + at, next ? next + at : nullptr);
      }
      const int next_pair = first_pair + device::threads();
      const bool pass_done = next_pair >= rows * units;
      const bool step_done = pass_done && pass + kPassRows >= alive;
      // The sums may be overwritten, and the block's part of the exchange is there.
      if (pass_done) device::barrier();
      if (step_done && loop.resident) {
        ++rounds;
        if (device::thread() == 0) device::store_release(loop.arrived + block, rounds);
      }
      if (present) work.save(step, pair, row, unit);
      if (step_done) break;
      first_pair = pass_done ? 0 : next_pair;
      if (pass_done) pass += kPassRows;
    }
  }
}

template <class Work>
SEQKERN_DEVICE void run_task(const Tasks<Work>& tasks, float* shared) {
  const Work& work = tasks.task[device::block() / tasks.blocks];
  run_loop(work.loop, work, device::block() % tasks.blocks, shared);
}

}  // namespace seqkern
