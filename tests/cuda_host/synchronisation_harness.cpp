// Barriers, shuffles, votes, flags and asynchronous copies on the emulator: kernels that use them
// rightly, and one for each mistake that has to be caught. C functions for test_synchronisation.py.
#include "common/device.cuh"

using namespace seqkern;

namespace {

constexpr int kThreads = 128;

// ---- warps ----

// out: (10, 32): what each lane gets.
SEQKERN_KERNEL shuffle_and_vote(int* out) {
  const int lane = device::lane();
  int results[10] = {device::shuffle_xor(100 + lane, 5),
                     device::shuffle_down(100 + lane, 3),
                     device::shuffle_up(100 + lane, 3),
                     device::shuffle(100 + lane, 31 - lane),
                     static_cast<int>(device::ballot(lane % 3 == 0)),
                     device::any(lane == 7),
                     device::any(lane == 32),
                     device::all(lane < 32),
                     device::all(lane < 31),
                     static_cast<int>(4 * device::shuffle_xor(0.25 * lane, 31))};
  for (int i = 0; i < 10; ++i) device::write(out + 32 * i + lane, results[i]);
}

// Each warp turns its part of x around, through shared memory.
template <bool with_sync>
SEQKERN_KERNEL reverse_in_warps(const float* x, float* out) {
  SEQKERN_SHARED(float, tile, kThreads);
  device::store(tile + device::thread(), device::load(x + device::thread()));
  if (with_sync) device::warp_sync();
  device::store(out + device::thread(), device::load(tile + (device::thread() ^ 31)));
}

SEQKERN_KERNEL shuffle_from_nowhere(float* out) {
  device::store(out + device::thread(), device::shuffle_xor(1.0f, 16));
}

SEQKERN_KERNEL vote_in_a_branch(float* out) {
  if (device::lane() < 8) device::store(out + device::thread(), device::any(true) ? 1.0f : 0.0f);
}

SEQKERN_KERNEL warp_sync_in_a_branch(float* out) {
  if (device::lane() < 8) device::warp_sync();
  device::store(out + device::thread(), 1.0f);
}

// ---- named barriers ----

constexpr int kFull = 1, kEmpty = 2;

// The first half of the block fills a tile for the second, `steps` times. Without `full` the second
// half does not wait, without `empty` the first does not.
template <bool full, bool empty>
SEQKERN_KERNEL produce_and_consume(float* out, int steps) {
  SEQKERN_SHARED(float, tile, kThreads / 2);
  const int me = device::thread() % (kThreads / 2);
  if (device::thread() < kThreads / 2) {
    for (int step = 0; step < steps; ++step) {
      if (empty && step > 0) device::named_barrier(kEmpty, kThreads);
      device::store(tile + me, static_cast<float>(step + me));
      device::named_barrier_arrive(kFull, kThreads);
    }
  } else {
    float sum = 0;
    for (int step = 0; step < steps; ++step) {
      if (full) device::named_barrier(kFull, kThreads);
      sum += device::load(tile + (me ^ 33));
      if (empty && step + 1 < steps) device::named_barrier_arrive(kEmpty, kThreads);
    }
    device::store(out + me, sum);
  }
}

SEQKERN_KERNEL named_barrier_nobody_comes_to(float* out) {
  if (device::thread() < 64) device::named_barrier(3, 96);
  device::store(out + device::thread(), 1.0f);
}

SEQKERN_KERNEL named_barrier_of_two_counts(float*) {
  device::named_barrier(3, device::thread() < 64 ? 96 : 128);
}

SEQKERN_KERNEL named_barrier_of_half_a_warp(float*) {
  device::named_barrier(3, 48);
}

SEQKERN_KERNEL named_barrier_16(float*) {
  device::named_barrier(16, 32);
}

SEQKERN_KERNEL named_barrier_twice(float*) {
  device::named_barrier_arrive(3, 128);
  device::named_barrier_arrive(3, 128);
}

// ---- the grid ----

// Every block writes a number, and all add all of them up, `steps` times. Without a barrier, plain
// accesses race; volatile ones give numbers that depend on the seed.
template <bool with_barrier, bool plain>
SEQKERN_KERNEL sum_over_grid(float* numbers, uint32_t* words, float* out, int steps) {
  device::GridBarrier grid(words);
  float sum = 0;
  for (int step = 0; step < steps; ++step) {
    if (device::thread() == 0) {
      const auto number = static_cast<float>(device::block() + step);
      float* mine = numbers + device::block();
      plain ? device::store(mine, number) : device::store_volatile(mine, number);
    }
    if (with_barrier) grid.wait();
    for (int i = 0; i < device::blocks(); ++i) {
      sum += plain ? device::load(numbers + i) : device::load_volatile(numbers + i);
    }
    if (with_barrier) grid.wait();
  }
  device::store(out + device::grid_thread(), sum);
}

// Others may still read when a block writes its next number.
SEQKERN_KERNEL half_of_the_barriers(float* numbers, uint32_t* words, float* out) {
  device::GridBarrier grid(words);
  float sum = 0;
  for (int step = 0; step < 3; ++step) {
    if (device::thread() == 0) device::store(numbers + device::block(), 1.0f);
    grid.wait();
    sum += device::load(numbers + (device::block() ^ 1));
  }
  device::store(out + device::grid_thread(), sum);
}

// Block 0 writes a number and sets a flag for the others: how it does and how they wait has to be
// enough for them to see the number.
enum class Set { kRelease, kAdd, kFence, kRelaxed, kReleaseBeforeBarrier };
enum class Wait { kAcquire, kFence, kRelaxed, kWithoutBarrier };

template <Set set, Wait wait>
SEQKERN_KERNEL announce(float* number, uint32_t* flag, float* out) {
  if (device::block() == 0) {
    // Another thread writes than the one that sets the flag.
    if (set == Set::kReleaseBeforeBarrier && device::thread() == 0) device::store_release(flag, 1u);
    if (device::thread() == 40) device::store(number, 3.0f);
    device::barrier();
    if (device::thread() != 0) return;
    if (set == Set::kRelease) device::store_release(flag, 1u);
    if (set == Set::kAdd) device::add_release(flag, 1u);
    if (set == Set::kFence) device::fence();
    if (set == Set::kFence) device::atomic_add(flag, 1u);
    if (set == Set::kRelaxed) device::store_relaxed(flag, 1u);
    return;
  }
  if (device::thread() == 0) {
    if (wait == Wait::kAcquire || wait == Wait::kWithoutBarrier) {
      while (device::load_acquire(flag) == 0) {
      }
    } else {
      while (device::load_relaxed(flag) == 0) {
      }
      if (wait == Wait::kFence) device::fence();
    }
  }
  if (wait != Wait::kWithoutBarrier) device::barrier();
  device::store(out + device::grid_thread(), device::load(number));
}

// Block b waits for block b - 1, which hands on a counter by flag.
template <bool by_add>
SEQKERN_KERNEL hand_on(float* value, uint32_t* flag, float* out) {
  const auto turn = static_cast<uint32_t>(device::block());
  if (device::thread() == 0) {
    while (device::load_acquire(flag) < turn) {
    }
  }
  device::barrier();
  device::store(out + device::grid_thread(), device::load(value));
  device::barrier();
  if (device::thread() == 0) {
    device::store(value, device::load(value) + 1);
    if (by_add) {
      device::add_release(flag, 1u);
    } else {
      device::store_release(flag, turn + 1);
    }
  }
}

SEQKERN_KERNEL wait_for_a_flag_nobody_sets(uint32_t* flag) {
  if (device::thread() == 0) {
    while (device::load_acquire(flag) == 0) {
    }
  }
  device::barrier();
}

// ---- cp.async ----

// Reads `tiles` tiles of 4 * kThreads floats through two stages of shared memory, `ahead` of which
// may be under way while one is read, and writes the sums of each thread's numbers. The last tile
// holds `rest` floats.
template <int bytes, int ahead, bool with_barrier>
SEQKERN_KERNEL sum_tiles(const float* x, float* out, int tiles, int rest) {
  constexpr int kEach = bytes / 4, kTile = kEach * kThreads;
  SEQKERN_DYNAMIC_SHARED(float, stages);
  const int me = device::thread();
  const auto fetch = [&](int tile) {
    if (tile < tiles) {
      const int count = tile + 1 < tiles ? kTile : rest;
      const int mine = count - kEach * me;
      const int valid = 4 * (mine < 0 ? 0 : mine > kEach ? kEach : mine);
      // Where nothing is valid, the address only has to be one.
      device::copy_async<bytes>(stages + tile % 2 * kTile + kEach * me,
                                x + (valid > 0 ? tile * kTile + kEach * me : 0), valid);
    }
    device::commit_copies();
  };
  fetch(0);
  float sum = 0;
  for (int tile = 0; tile < tiles; ++tile) {
    fetch(tile + 1);
    device::wait_copies<ahead>();
    if (with_barrier) device::barrier();
    const int other = me ^ 32;
    for (int i = 0; i < kEach; ++i) {
      sum += device::load(stages + tile % 2 * kTile + kEach * other + i);
    }
    if (with_barrier) device::barrier();
  }
  device::store(out + me, sum);
}

// A thread that reads its own copy before it waits for it.
SEQKERN_KERNEL read_before_wait(const float* x, float* out) {
  SEQKERN_SHARED(float, tile, kThreads);
  device::store(tile + device::thread(), 5.0f);  // which is not to be seen any more
  device::copy_async<4>(tile + device::thread(), x + device::thread());
  device::commit_copies();
  const float early = device::load(tile + device::thread());
  device::wait_copies<0>();
  device::store(out + device::thread(), early);
}

// Copies that no group holds are not waited for.
SEQKERN_KERNEL wait_without_commit(const float* x, float* out) {
  SEQKERN_SHARED(float, tile, kThreads);
  device::copy_async<4>(tile + device::thread(), x + device::thread());
  device::wait_copies<0>();
  device::store(out + device::thread(), device::load(tile + device::thread()));
}

SEQKERN_KERNEL copy_past_the_end(const float* x) {
  SEQKERN_SHARED(float, tile, 4 * kThreads);
  device::copy_async<16>(tile + 4 * device::thread(), x + 4 * device::thread());
}

SEQKERN_KERNEL copy_misaligned(const float* x) {
  SEQKERN_SHARED(float, tile, 4 * kThreads);
  device::copy_async<8>(tile + 4 * device::thread(), x + 1);
}

SEQKERN_KERNEL copy_to_global(const float* x) {
  device::copy_async<4>(const_cast<float*>(x), x);
}

// ---- shared memory ----

// Static and dynamic shared memory do not overlap.
SEQKERN_KERNEL fill_both(float* out) {
  SEQKERN_SHARED(float, fixed, kThreads);
  SEQKERN_DYNAMIC_SHARED(float, dynamic);
  device::store(fixed + device::thread(), 1.0f);
  device::store(dynamic + device::thread(), 2.0f);
  device::barrier();
  const int other = device::thread() ^ 64;
  device::store(out + device::thread(),
                10 * device::load(fixed + other) + device::load(dynamic + other));
}

SEQKERN_KERNEL past_dynamic(float* out) {
  SEQKERN_DYNAMIC_SHARED(float, dynamic);
  device::store(dynamic + device::thread() + 1, 2.0f);
  device::store(out + device::thread(), 1.0f);
}

SEQKERN_KERNEL before_dynamic(float* out) {
  SEQKERN_DYNAMIC_SHARED(float, dynamic);
  device::store(out + device::thread(), device::load(dynamic - 1));
}

SEQKERN_KERNEL too_much_static(float* out) {
  SEQKERN_SHARED(float, a, 8192);
  SEQKERN_SHARED(float, b, 8192);
  device::store(out + device::thread(), device::load(a) + device::load(b));
}

SEQKERN_KERNEL write_after_read(float* out) {
  SEQKERN_SHARED(float, tile, kThreads);
  device::store(tile + device::thread(), 1.0f);
  device::barrier();
  const float other = device::load(tile + (device::thread() ^ 32));
  device::store(tile + device::thread(), other + 1);
  device::barrier();
  device::store(out + device::thread(), device::load(tile + device::thread()));
}

// The flag makes sure that the read comes first, and says nothing else.
SEQKERN_KERNEL write_after_read_by_flag(float* flag) {
  SEQKERN_SHARED(float, tile, kThreads);
  device::store(tile + device::thread(), 1.0f);
  device::barrier();
  if (device::thread() == 0) device::store_volatile(flag, device::load(tile));
  if (device::thread() != 64) return;
  while (device::load_volatile(flag) != 1) {
  }
  device::store(tile, 2.0f);
}

SEQKERN_KERNEL two_writes(float* out) {
  SEQKERN_SHARED(float, tile, 1);
  if (device::thread() % 64 == 0) device::store(tile, 1.0f);
  device::barrier();
  device::store(out + device::thread(), device::load(tile));
}

// Halves of one word by two threads are no race; atomics are none either.
SEQKERN_KERNEL no_race(float* out) {
  SEQKERN_SHARED(uint16_t, halves, kThreads);
  SEQKERN_SHARED(int, count, 1);
  if (device::thread() == 0) device::write(count, 0);
  device::write(halves + device::thread(), static_cast<uint16_t>(device::thread()));
  device::barrier();
  device::atomic_add<device::Scope::kBlock>(count, 1);
  device::barrier();
  device::store(
      out + device::thread(),
      static_cast<float>(device::read(count) + device::read(halves + (device::thread() ^ 1))));
}

SEQKERN_KERNEL use_the_stack(float* out) {
  volatile char room[200 * 1024];
  for (int i = sizeof(room) - 1; i >= 0; i -= 64) room[i] = 1;
  device::store(out + device::thread(), static_cast<float>(room[0]));
}

template <class... Parameters, class... Arguments>
void run(void (*kernel)(Parameters...), int threads, int dynamic, float* out,
         Arguments... arguments) {
  const emulator::Buffer buffer("out", out, 4 * kThreads);
  device::launch(kernel, {1, threads, dynamic}, {}, arguments...);
}

template <class... Parameters>
void run_alone(void (*kernel)(Parameters...), int dynamic = 0) {
  float out[kThreads] = {};
  run(kernel, kThreads, dynamic, out, static_cast<float*>(out));
}

void run_reading(void (*kernel)(const float*), int floats) {
  alignas(16) const float x[4 * kThreads] = {};
  const emulator::Buffer x_buffer("x", x, 4 * floats);
  device::launch(kernel, {1, kThreads}, {}, static_cast<const float*>(x));
}

void run_announce(void (*kernel)(float*, uint32_t*, float*), float* out, uint64_t seed) {
  float number = 0;
  uint32_t flag = 0;
  const emulator::Buffer number_buffer("number", &number, 4), flag_buffer("flag", &flag, 4);
  const emulator::Buffer out_buffer("out", out, 4 * 3 * 64);
  emulator::set_seed(seed);
  device::launch_cooperative(kernel, {3, 64}, {}, &number, &flag, out);
}

}  // namespace

#define ANNOUNCE(name, set, wait)                                  \
  extern "C" void run_announce_##name(float* out, uint64_t seed) { \
    run_announce(announce<Set::set, Wait::wait>, out, seed);       \
  }                                                                \
  extern "C" void run_alone_announce_##name() {                    \
    float out[3 * 64];                                             \
    run_announce(announce<Set::set, Wait::wait>, out, 0);          \
  }

ANNOUNCE(release_acquire, kRelease, kAcquire)
ANNOUNCE(add_acquire, kAdd, kAcquire)
ANNOUNCE(fence_acquire, kFence, kAcquire)
ANNOUNCE(release_fence, kRelease, kFence)
ANNOUNCE(fence_fence, kFence, kFence)
ANNOUNCE(relaxed_acquire, kRelaxed, kAcquire)
ANNOUNCE(early_acquire, kReleaseBeforeBarrier, kAcquire)
ANNOUNCE(release_relaxed, kRelease, kRelaxed)
ANNOUNCE(release_without_barrier, kRelease, kWithoutBarrier)

#define ALONE(name, kernel, ...)      \
  extern "C" void run_##name() {      \
    run_alone(kernel, ##__VA_ARGS__); \
  }

ALONE(vote_in_a_branch, vote_in_a_branch)
ALONE(warp_sync_in_a_branch, warp_sync_in_a_branch)
ALONE(named_barrier_nobody_comes_to, named_barrier_nobody_comes_to)
ALONE(named_barrier_of_two_counts, named_barrier_of_two_counts)
ALONE(named_barrier_of_half_a_warp, named_barrier_of_half_a_warp)
ALONE(named_barrier_16, named_barrier_16)
ALONE(named_barrier_twice, named_barrier_twice)
ALONE(past_dynamic, past_dynamic, 4 * kThreads)
ALONE(before_dynamic, before_dynamic, 4 * kThreads)
ALONE(no_dynamic, past_dynamic)
ALONE(too_much_dynamic, past_dynamic, 228 * 1024)
ALONE(too_much_static, too_much_static)
ALONE(write_after_read, write_after_read)
ALONE(write_after_read_by_flag, write_after_read_by_flag)
ALONE(two_writes, two_writes)
ALONE(use_the_stack, use_the_stack)

extern "C" {

void run_shuffle_and_vote(int* out) {
  const emulator::Buffer buffer("out", out, 10 * 32 * 4);
  device::launch(shuffle_and_vote, {1, 32}, {}, out);
}

void run_reverse_in_warps(const float* x, float* out, uint64_t seed) {
  const emulator::Buffer x_buffer("x", x, 4 * kThreads);
  emulator::set_seed(seed);
  run(reverse_in_warps<true>, kThreads, 0, out, x, out);
}
void run_reverse_in_warps_without_sync() {
  float x[kThreads] = {}, out[kThreads];
  const emulator::Buffer x_buffer("x", x, 4 * kThreads);
  run(reverse_in_warps<false>, kThreads, 0, out, x, out);
}

void run_shuffle_from_nowhere() {
  float out[kThreads];
  run(shuffle_from_nowhere, 16, 0, out, out);
}

void run_produce_and_consume(float* out, int steps, uint64_t seed) {
  emulator::set_seed(seed);
  run(produce_and_consume<true, true>, kThreads, 0, out, out, steps);
}
void run_consume_early() {
  float out[kThreads];
  run(produce_and_consume<false, true>, kThreads, 0, out, out, 1);
}
void run_produce_early() {
  float out[kThreads];
  run(produce_and_consume<true, false>, kThreads, 0, out, out, 2);
}

void run_sum_over_grid(bool with_barrier, bool plain, float* out, int blocks, int threads,
                       int steps, uint64_t seed) {
  float numbers[64] = {};
  uint32_t words[64] = {};
  const emulator::Buffer numbers_buffer("numbers", numbers, 4 * blocks);
  const emulator::Buffer words_buffer("words", words, 4 * blocks);
  const emulator::Buffer out_buffer("out", out, size_t{4} * blocks * threads);
  emulator::set_seed(seed);
  const auto kernel = with_barrier ? plain ? sum_over_grid<true, true> : sum_over_grid<true, false>
                      : plain      ? sum_over_grid<false, true>
                                   : sum_over_grid<false, false>;
  device::launch_cooperative(kernel, {blocks, threads}, {}, numbers, words, out, steps);
}
void run_missing_grid_barrier() {
  float out[3 * 64];
  run_sum_over_grid(false, true, out, 3, 64, 1, 0);
}
void run_missing_second_grid_barrier() {
  float out[2 * 32], numbers[2];
  uint32_t words[2] = {};
  const emulator::Buffer numbers_buffer("numbers", numbers, sizeof(numbers));
  const emulator::Buffer words_buffer("words", words, sizeof(words));
  const emulator::Buffer out_buffer("out", out, sizeof(out));
  device::launch_cooperative(half_of_the_barriers, {2, 32}, {}, numbers, words, out);
}

void run_grid_barrier_without_cooperative_launch() {
  float numbers[2], out[64];
  uint32_t words[2] = {};
  const emulator::Buffer numbers_buffer("numbers", numbers, sizeof(numbers));
  const emulator::Buffer words_buffer("words", words, sizeof(words));
  const emulator::Buffer out_buffer("out", out, sizeof(out));
  device::launch(sum_over_grid<true, true>, {2, 32}, {}, numbers, words, out, 1);
}
// One block too many for a GPU of `processors`.
void run_too_many_blocks(int processors) {
  emulator::set_processors(processors);
  const int blocks = device::most_resident_blocks(wait_for_a_flag_nobody_sets, {0, 1024}) + 1;
  uint32_t flag = 1;
  const emulator::Buffer flag_buffer("flag", &flag, sizeof(flag));
  device::launch_cooperative(wait_for_a_flag_nobody_sets, {blocks - 1, 1024}, {}, &flag);
  device::launch_cooperative(wait_for_a_flag_nobody_sets, {blocks, 1024}, {}, &flag);
}
int resident_blocks(int processors, int threads, int dynamic_shared) {
  emulator::set_processors(processors);
  return device::most_resident_blocks(wait_for_a_flag_nobody_sets, {0, threads, dynamic_shared});
}

void run_hand_on(bool by_add, float* out, uint64_t seed) {
  float value = 0;
  uint32_t flag = 0;
  const emulator::Buffer value_buffer("value", &value, 4), flag_buffer("flag", &flag, 4);
  const emulator::Buffer out_buffer("out", out, 4 * 8 * 64);
  emulator::set_seed(seed);
  device::launch_cooperative(by_add ? hand_on<true> : hand_on<false>, {8, 64}, {}, &value, &flag,
                             out);
}

void run_wait_for_a_flag_nobody_sets() {
  uint32_t flag = 0;
  const emulator::Buffer flag_buffer("flag", &flag, sizeof(flag));
  device::launch_cooperative(wait_for_a_flag_nobody_sets, {2, 64}, {}, &flag);
}

void run_sum_tiles(int bytes, const float* x, float* out, int tiles, int rest, uint64_t seed) {
  const int each = bytes / 4;
  const emulator::Buffer x_buffer("x", x, size_t{4} * ((tiles - 1) * each * kThreads + rest));
  emulator::set_seed(seed);
  const auto kernel = bytes == 16  ? sum_tiles<16, 1, true>
                      : bytes == 8 ? sum_tiles<8, 1, true>
                                   : sum_tiles<4, 1, true>;
  run(kernel, kThreads, 2 * bytes * kThreads, out, x, out, tiles, rest);
}
// Waits for one group too few.
void run_sum_tiles_too_early(const float* x, float* out) {
  const emulator::Buffer x_buffer("x", x, 4 * 2 * kThreads);
  run(sum_tiles<4, 2, true>, kThreads, 8 * kThreads, out, x, out, 2, kThreads);
}
void run_sum_tiles_without_barrier() {
  float x[2 * kThreads] = {}, out[kThreads];
  const emulator::Buffer x_buffer("x", x, sizeof(x));
  run(sum_tiles<4, 1, false>, kThreads, 8 * kThreads, out, x, out, 2, kThreads);
}
void run_read_before_wait(const float* x, float* out) {
  const emulator::Buffer x_buffer("x", x, 4 * kThreads);
  run(read_before_wait, kThreads, 0, out, x, out);
}
void run_wait_without_commit(const float* x, float* out) {
  const emulator::Buffer x_buffer("x", x, 4 * kThreads);
  run(wait_without_commit, kThreads, 0, out, x, out);
}
void run_copy_past_the_end() {
  run_reading(copy_past_the_end, 4 * kThreads - 1);
}
void run_copy_misaligned() {
  run_reading(copy_misaligned, 4 * kThreads);
}
void run_copy_to_global() {
  run_reading(copy_to_global, 4 * kThreads);
}

void run_fill_both(float* out, uint64_t seed) {
  emulator::set_seed(seed);
  run(fill_both, kThreads, 4 * kThreads, out, out);
}
void run_no_race(float* out, uint64_t seed) {
  emulator::set_seed(seed);
  run(no_race, kThreads, 0, out, out);
}

}  // extern "C"
