// Clusters, arrivals barriers and the copy engine on the emulator: kernels that use them rightly,
// and one for each mistake that has to be caught. C functions for test_cluster.py.
#include "common/device.cuh"

using namespace seqkern;

namespace {

constexpr int kThreads = 64;
constexpr int kCluster = 4;

// Each block gives its number to the next one of its cluster, through that one's shared memory, and
// reads that of the block before it out of this one's.
template <bool first_barrier, bool middle_barrier, bool last_barrier>
SEQKERN_KERNEL pass_round(float* out) {
  SEQKERN_SHARED(float, given, kThreads);
  SEQKERN_SHARED(float, own, kThreads);
  const int rank = device::cluster_rank(), count = device::cluster_blocks();
  device::store(own + device::thread(), static_cast<float>(device::block()));
  if (first_barrier) device::cluster_barrier();
  float* const next = device::map_shared_rank(given, (rank + 1) % count);
  device::store(next + device::thread(), static_cast<float>(100 * device::block()));
  if (middle_barrier) device::cluster_barrier();
  const float* const before = device::map_shared_rank(own, (rank + count - 1) % count);
  const int other = device::thread() ^ 33;
  const float sum = device::load(given + other) + device::load(before + other);
  device::store(out + device::grid_thread(), sum);
  if (last_barrier) device::cluster_barrier();
}

// The halves of the barrier: what comes in between is not ordered by it.
template <bool after_arrival>
SEQKERN_KERNEL split_barrier(float* out) {
  SEQKERN_SHARED(float, tile, kThreads);
  device::cluster_barrier();
  float* const next = device::map_shared_rank(tile, (device::cluster_rank() + 1) % kCluster);
  if (!after_arrival) device::store(next + device::thread(), 1.0f);
  device::cluster_arrive();
  if (after_arrival) device::store(next + device::thread(), 1.0f);
  device::cluster_wait();
  device::store(out + device::grid_thread(), device::load(tile + (device::thread() ^ 33)));
  device::cluster_barrier();
}

SEQKERN_KERNEL arrive_twice(float*) {
  device::cluster_arrive();
  device::cluster_arrive();
}
SEQKERN_KERNEL wait_alone(float*) {
  device::cluster_wait();
}
SEQKERN_KERNEL rank_that_is_not_there(float*) {
  SEQKERN_SHARED(float, tile, 1);
  device::cluster_barrier();
  device::map_shared_rank(tile, kCluster);
}
SEQKERN_KERNEL one_block_stays_away(float*) {
  if (device::cluster_rank() != 1) device::cluster_barrier();
}

// Warp 0 fills a ring of two stages for warp 1 by the copy engine, `tiles` tiles of 32 floats. The
// barriers say which stage is full and which is empty again.
template <bool wait_full, bool wait_empty>
SEQKERN_KERNEL ring(const float* x, float* out, int tiles) {
  SEQKERN_SHARED(float, stages, 2 * 32);
  SEQKERN_SHARED(device::Arrivals, full, 2);
  SEQKERN_SHARED(device::Arrivals, empty, 2);
  if (device::thread() == 0) {
    for (int i = 0; i < 2; ++i) {
      device::init(full + i, 1);
      device::init(empty + i, 32);
    }
  }
  device::barrier();
  if (device::warp() == 0) {
    if (device::lane() != 0) return;
    for (int tile = 0; tile < tiles; ++tile) {
      const int stage = tile % 2;
      // That the last copy into the stage has landed does not say that it has been read.
      if (tile >= 2) device::wait((wait_empty ? empty : full) + stage, (tile / 2 - 1) % 2);
      device::arrive_expecting(full + stage, 32 * 4);
      device::copy_bulk(stages + 32 * stage, x + 32 * tile, 32 * 4, full + stage);
    }
    // The ring is this block's, so it must not end before the copies do.
    for (int tile = tiles < 2 ? 0 : tiles - 2; tile < tiles; ++tile) {
      device::wait(full + tile % 2, tile / 2 % 2);
    }
    return;
  }
  float sum = 0;
  for (int tile = 0; tile < tiles; ++tile) {
    const int stage = tile % 2;
    if (wait_full) device::wait(full + stage, tile / 2 % 2);
    sum += device::load(stages + 32 * stage + (device::lane() ^ 5));
    device::arrive(empty + stage);
  }
  device::store(out + device::lane(), sum);
}

// Every block writes into block 0's shared memory and arrives there.
SEQKERN_KERNEL gather_at_first(float* out) {
  SEQKERN_SHARED(float, numbers, kCluster* kThreads);
  SEQKERN_SHARED(device::Arrivals, arrivals, 1);
  if (device::thread() == 0) device::init(arrivals, kCluster * kThreads);
  device::cluster_barrier();
  const int at = kThreads * device::cluster_rank() + device::thread();
  device::store(device::map_shared_rank(numbers, 0) + at, static_cast<float>(at));
  device::arrive_at_rank(arrivals, 0);
  if (device::cluster_rank() == 0) {
    device::wait(arrivals, 0);
    float sum = 0;
    for (int i = 0; i < kCluster; ++i) {
      sum += device::load(numbers + kThreads * i + (device::thread() ^ 3));
    }
    device::store(out + device::thread(), sum);
  }
  device::cluster_barrier();
}

// One tile of a matrix, as it lies in shared memory.
template <class S>
SEQKERN_KERNEL fetch_tile(SEQKERN_CONSTANT device::TileMap map, S* out, int row, int column,
                          int count) {
  SEQKERN_DYNAMIC_SHARED(S, tile);
  SEQKERN_SHARED(device::Arrivals, arrivals, 1);
  if (device::thread() == 0) {
    device::init(arrivals, 1);
    device::arrive_expecting(arrivals, count * sizeof(S));
    device::copy_tile(tile, &map, row, column, arrivals);
  }
  device::barrier();
  device::wait(arrivals, 0);
  for (int i = device::thread(); i < count; i += device::threads()) {
    device::write(out + i, device::read(tile + i));
  }
}

template <bool wait>
SEQKERN_KERNEL store_doubled(const float* x, float* out) {
  SEQKERN_SHARED(float, tile, kThreads);
  device::store(tile + device::thread(), 2 * device::load(x + device::thread()));
  device::fence_async_proxy();
  device::barrier();
  if (device::thread() != 0) return;
  device::store_bulk(out, tile, 4 * kThreads);
  if (wait) device::wait_bulk_stores();
}

SEQKERN_KERNEL no_init(float*) {
  SEQKERN_SHARED(device::Arrivals, arrivals, 1);
  device::arrive(arrivals);
}
// A flag without release and acquire says when, but not that what was done before is seen.
SEQKERN_KERNEL init_without_barrier(float* flag) {
  SEQKERN_SHARED(device::Arrivals, arrivals, 1);
  if (device::block() != 0) return;
  if (device::thread() == 0) {
    device::init(arrivals, kThreads);
    device::store_volatile(flag, 1.0f);
  }
  if (device::thread() == 32) {
    while (device::load_volatile(flag) != 1.0f) {
    }
    device::arrive(arrivals);
  }
}
SEQKERN_KERNEL too_many_arrivals(float*) {
  SEQKERN_SHARED(device::Arrivals, arrivals, 1);
  if (device::thread() != 0) return;
  device::init(arrivals, 1);
  device::arrive_expecting(arrivals, 16);
  device::arrive(arrivals);
}
SEQKERN_KERNEL bytes_that_never_come(float* x) {
  SEQKERN_SHARED(device::Arrivals, arrivals, 1);
  SEQKERN_SHARED(float, tile, 4);
  if (device::thread() != 0) return;
  device::init(arrivals, 1);
  device::arrive_expecting(arrivals, 32);
  device::copy_bulk(tile, x, 16, arrivals);
  device::wait(arrivals, 0);
}
SEQKERN_KERNEL odd_bytes(float* x) {
  SEQKERN_SHARED(device::Arrivals, arrivals, 1);
  SEQKERN_SHARED(float, tile, 4);
  if (device::thread() != 0) return;
  device::init(arrivals, 1);
  device::copy_bulk(tile, x, 12, arrivals);
}

template <class... Parameters, class... Arguments>
void run(void (*kernel)(Parameters...), int blocks, int cluster, bool cooperative, uint64_t seed,
         Arguments... arguments) {
  emulator::set_seed(seed);
  device::launch_clusters(kernel, {blocks, kThreads}, cluster, cooperative, {}, arguments...);
}

void run_alone(void (*kernel)(float*)) {
  alignas(16) float out[2 * kCluster * kThreads] = {};
  const emulator::Buffer buffer("out", out, sizeof(out));
  run(kernel, 2 * kCluster, kCluster, false, 0, static_cast<float*>(out));
}

}  // namespace

#define ALONE(name, ...)         \
  extern "C" void run_##name() { \
    run_alone(__VA_ARGS__);      \
  }

ALONE(no_first_barrier, pass_round<false, true, true>)
ALONE(no_middle_barrier, pass_round<true, false, true>)
ALONE(no_last_barrier, pass_round<true, true, false>)
ALONE(write_after_arrival, split_barrier<true>)
ALONE(arrive_twice, arrive_twice)
ALONE(wait_alone, wait_alone)
ALONE(rank_that_is_not_there, rank_that_is_not_there)
ALONE(one_block_stays_away, one_block_stays_away)
ALONE(no_init, no_init)
ALONE(init_without_barrier, init_without_barrier)
ALONE(too_many_arrivals, too_many_arrivals)
ALONE(bytes_that_never_come, bytes_that_never_come)
ALONE(odd_bytes, odd_bytes)

extern "C" {

void run_pass_round(float* out, int blocks, int cluster, bool cooperative, uint64_t seed) {
  const emulator::Buffer buffer("out", out, size_t{4} * blocks * kThreads);
  run(pass_round<true, true, true>, blocks, cluster, cooperative, seed, out);
}
void run_split_barrier(float* out, uint64_t seed) {
  const emulator::Buffer buffer("out", out, 4 * kCluster * kThreads);
  run(split_barrier<false>, kCluster, kCluster, false, seed, out);
}
void run_odd_cluster() {
  float out[1];
  run(arrive_twice, 5, 2, false, 0, static_cast<float*>(out));
}

void run_ring(const float* x, float* out, int tiles, uint64_t seed) {
  const emulator::Buffer x_buffer("x", x, size_t{4} * 32 * tiles), out_buffer("out", out, 4 * 32);
  run(ring<true, true>, 1, 1, false, seed, x, out, tiles);
}
void run_ring_without_full(uint64_t seed) {
  alignas(16) float x[32 * 4] = {}, out[32];
  const emulator::Buffer x_buffer("x", x, sizeof(x)), out_buffer("out", out, sizeof(out));
  run(ring<false, true>, 1, 1, false, seed, x, out, 4);
}
void run_ring_without_empty(uint64_t seed) {
  alignas(16) float x[32 * 4] = {}, out[32];
  const emulator::Buffer x_buffer("x", x, sizeof(x)), out_buffer("out", out, sizeof(out));
  run(ring<true, false>, 1, 1, false, seed, x, out, 4);
}

void run_gather_at_first(float* out, uint64_t seed) {
  const emulator::Buffer buffer("out", out, 4 * kThreads);
  run(gather_at_first, kCluster, kCluster, false, seed, out);
}

void run_fetch_tile(int bytes, const void* base, int rows, int columns, int stride, int tile_rows,
                    int tile_columns, bool swizzled, int row, int column, void* out,
                    uint64_t seed) {
  const emulator::Buffer base_buffer("base", base, size_t(bytes) * ((rows - 1) * stride + columns));
  const int count = tile_rows * tile_columns;
  const emulator::Buffer out_buffer("out", out, size_t(bytes) * count);
  emulator::set_seed(seed);
  const auto swizzle = swizzled ? device::Swizzle::k128 : device::Swizzle::kNone;
  const device::Grid grid = {1, kThreads, bytes * count};
  if (bytes == 2) {
    const auto map = device::make_tile_map(static_cast<const uint16_t*>(base), rows, columns,
                                           stride, tile_rows, tile_columns, swizzle);
    device::launch(fetch_tile<uint16_t>, grid, {}, map, static_cast<uint16_t*>(out), row, column,
                   count);
  } else {
    const auto map = device::make_tile_map(static_cast<const float*>(base), rows, columns, stride,
                                           tile_rows, tile_columns, swizzle);
    device::launch(fetch_tile<float>, grid, {}, map, static_cast<float*>(out), row, column, count);
  }
}

void run_tile_map_of_odd_stride() {
  alignas(16) static const float base[64] = {};
  device::make_tile_map(base, 4, 9, 9, 4, 4, device::Swizzle::kNone);
}

void run_store_doubled(const float* x, float* out, uint64_t seed) {
  const emulator::Buffer x_buffer("x", x, 4 * kThreads), out_buffer("out", out, 4 * kThreads);
  run(store_doubled<true>, 1, 1, false, seed, x, out);
}
void run_store_without_wait() {
  alignas(16) float x[kThreads] = {}, out[kThreads];
  const emulator::Buffer x_buffer("x", x, sizeof(x)), out_buffer("out", out, sizeof(out));
  run(store_doubled<false>, 1, 1, false, 0, x, out);
}

}  // extern "C"
