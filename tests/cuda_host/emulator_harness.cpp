// Kernels that prove the emulator: a correct one that uses everything, and one for each fault that
// it has to catch. C functions for test_emulator.py; x holds 256 floats, out one for each of 2
// blocks.
#include "common/device.cuh"

using namespace seqkern;

namespace {

constexpr int kBlocks = 2;
constexpr int kThreads = 128;
constexpr int kWarps = kThreads / device::kWarp;

float warp_sum(float value) {
  for (int mask = device::kWarp / 2; mask > 0; mask /= 2) {
    value += device::shuffle_xor(value, mask);
  }
  return value;
}

// Each block sums its part of x: within a warp by shuffles, across warps through shared memory.
template <bool with_barrier>
SEQKERN_KERNEL block_sum(const float* x, float* out) {
  SEQKERN_SHARED(float, partial, kWarps);
  const float sum = warp_sum(device::load(x + device::grid_thread()));
  const int warp = device::thread() / device::kWarp;
  if (device::thread() % device::kWarp == 0) device::store(partial + warp, sum);
  if (with_barrier) device::barrier();
  if (device::thread() == 0) {
    float total = 0;
    for (int i = 0; i < kWarps; ++i) total += device::load(partial + i);
    device::store(out + device::block(), total);
  }
}

// Thread 0 reads what a thread of another warp writes. Volatile accesses are no race.
template <bool with_barrier>
SEQKERN_KERNEL read_after_other_warp(const float*, float* out) {
  float* mine = out + device::block();  // 0 at the start
  if (device::thread() == kThreads - 1) device::store_volatile(mine, 1.0f);
  if (with_barrier) device::barrier();
  if (device::thread() == 0) device::store_volatile(mine, device::load_volatile(mine) + 1);
}

// All threads have it, and one stores it.
void store_result(float* out, float result) {
  if (device::thread() == 0) device::store(out + device::block(), result);
}

SEQKERN_KERNEL barrier_in_a_branch(const float* x, float* out) {
  if (device::thread() < 64) device::barrier();
  store_result(out, device::load(x));
}

SEQKERN_KERNEL two_barriers_in_branches(const float* x, float* out) {
  if (device::thread() < 64) {
    device::barrier();
  } else {
    device::barrier();
  }
  store_result(out, device::load(x));
}

SEQKERN_KERNEL shuffle_in_a_branch(const float* x, float* out) {
  float value = device::load(x + device::thread());
  if (device::thread() % 2 == 0) value = device::shuffle_xor(value, 2);
  store_result(out, value);
}

SEQKERN_KERNEL read_past_the_end(const float* x, float* out) {
  store_result(out, device::load(x + device::grid_thread() + 1));
}

SEQKERN_KERNEL write_past_shared_memory(const float* x, float* out) {
  SEQKERN_SHARED(float, tile, kThreads);
  device::store(tile + device::thread() + 1, device::load(x));
  store_result(out, 0.0f);
}

SEQKERN_KERNEL write_into_input(const float* x, float* out) {
  device::store(const_cast<float*>(x), device::load(out));
}

SEQKERN_KERNEL misaligned_read(const float* x, float* out) {
  const char* bytes = reinterpret_cast<const char*>(x) + 2;
  store_result(out, device::load(reinterpret_cast<const float*>(bytes)));
}

SEQKERN_KERNEL read_shared_memory_unset(const float*, float* out) {
  SEQKERN_SHARED(float, tile, 1);
  store_result(out, device::load(tile));
}

void run(void (*kernel)(const float*, float*), const float* x, float* out, uint64_t seed) {
  const emulator::Buffer x_buffer("x", x, sizeof(float) * kBlocks * kThreads);
  const emulator::Buffer out_buffer("out", out, sizeof(float) * kBlocks);
  emulator::set_seed(seed);
  device::launch(kernel, {kBlocks, kThreads}, {}, x, out);
}

}  // namespace

#define HARNESS(kernel, ...)                                                \
  extern "C" void run_##kernel(const float* x, float* out, uint64_t seed) { \
    run(__VA_ARGS__, x, out, seed);                                         \
  }

HARNESS(block_sum, block_sum<true>)
HARNESS(block_sum_without_barrier, block_sum<false>)
HARNESS(read_after_other_warp, read_after_other_warp<true>)
HARNESS(read_after_other_warp_without_barrier, read_after_other_warp<false>)
HARNESS(barrier_in_a_branch, barrier_in_a_branch)
HARNESS(two_barriers_in_branches, two_barriers_in_branches)
HARNESS(shuffle_in_a_branch, shuffle_in_a_branch)
HARNESS(read_past_the_end, read_past_the_end)
HARNESS(write_past_shared_memory, write_past_shared_memory)
HARNESS(write_into_input, write_into_input)
HARNESS(misaligned_read, misaligned_read)
HARNESS(read_shared_memory_unset, read_shared_memory_unset)
