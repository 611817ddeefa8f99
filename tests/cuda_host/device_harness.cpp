// Conversions, vectors and atomics of csrc/common/device/*.cuh on the emulator, as C functions for
// test_device.py.
#include "common/device.cuh"

using namespace seqkern;

namespace {

constexpr device::Grid kGrid = {4, 64};

template <class From, class To>
SEQKERN_KERNEL convert(const From* from, To* to, int64_t count) {
  for (int64_t i = device::grid_thread(); i < count; i += device::grid_threads()) {
    device::store(to + i, device::load(from + i));
  }
}

SEQKERN_KERNEL round_to_tf32(const float* from, uint32_t* to, int64_t count) {
  for (int64_t i = device::grid_thread(); i < count; i += device::grid_threads()) {
    device::write(to + i, device::to_tf32(device::load(from + i)));
  }
}

// count is a multiple of 2: each thread packs two neighbours and takes them apart again.
template <class S>
SEQKERN_KERNEL pack_pairs(const float* from, uint32_t* pairs, float* back, int64_t count) {
  for (int64_t i = device::grid_thread(); 2 * i < count; i += device::grid_threads()) {
    const uint32_t pair =
        device::pack<S>(device::load(from + 2 * i), device::load(from + 2 * i + 1));
    device::write(pairs + i, pair);
    device::store(back + 2 * i, device::unpack_low<S>(pair));
    device::store(back + 2 * i + 1, device::unpack_high<S>(pair));
  }
}

// Doubles `width` neighbours at once; count is a multiple of it.
template <class S, int width>
SEQKERN_KERNEL double_vectors(const S* from, S* to, int64_t count) {
  for (int64_t i = width * device::grid_thread(); i < count; i += width * device::grid_threads()) {
    float x[width];
    device::load_vector(x, from + i);
    for (float& value : x) value *= 2;
    device::store_vector(to + i, x);
  }
}

using Four = device::Vector<float, 4>;

// Each fourth of the numbers by another kind of access.
SEQKERN_KERNEL copy_past_caches(const Four* from, Four* to) {
  const int64_t i = device::grid_thread();
  device::write(to + 4 * i, device::read_shared_cache(from + 4 * i));
  device::write(to + 4 * i + 1, device::read_constant(from + 4 * i + 1));
  device::write_once(to + 4 * i + 2, device::read_once(from + 4 * i + 2));
  device::store_volatile(&to[4 * i + 3][0], device::load_volatile(&from[4 * i + 3][0]));
  for (int j = 1; j < 4; ++j) {
    device::store_relaxed(&to[4 * i + 3][j], device::load_relaxed(&from[4 * i + 3][j]));
  }
}

SEQKERN_KERNEL misaligned_vector(const float* from, float* to) {
  float x[4];
  device::load_vector(x, from + 1);
  device::store_vector(to, x);
}

SEQKERN_KERNEL read_shared_as_global(float* to) {
  SEQKERN_SHARED(float, tile, 1);
  device::store(to, device::read_constant(tile));
}

// Every thread adds to, and takes the maximum of, one and the same word; turns and counts pass a
// token that only one thread at a time may hold.
SEQKERN_KERNEL update(float* sum, int* most, unsigned* tickets, int* lock, int* guarded) {
  const int me = static_cast<int>(device::grid_thread());
  device::atomic_add(sum, 0.5f);
  device::atomic_max<device::Scope::kSystem>(most, me);
  device::write(tickets + 1 + me, device::atomic_add<device::Scope::kGpu>(tickets, 1u));
  while (device::atomic_compare_and_swap(lock, 0, 1) != 0) {
  }
  const int before = device::load_volatile(guarded);  // others may come in between here
  device::store_volatile(guarded, before + 1);
  if (device::atomic_exchange(lock, 0) != 1) device::store_volatile(guarded, -1000000);
}

// The same without atomics: updates get lost.
SEQKERN_KERNEL update_plainly(int* guarded) {
  const int before = device::load_volatile(guarded);
  device::store_volatile(guarded, before + 1);
}

template <class From, class To>
void run(const From* from, To* to, int64_t count) {
  const emulator::Buffer from_buffer("from", from, sizeof(From) * count);
  const emulator::Buffer to_buffer("to", to, sizeof(To) * count);
  device::launch(convert<From, To>, kGrid, {}, from, to, count);
}

template <class S>
void run_pairs(const float* from, uint32_t* pairs, float* back, int64_t count) {
  const emulator::Buffer from_buffer("from", from, 4 * count),
      pairs_buffer("pairs", pairs, 2 * count);
  const emulator::Buffer back_buffer("back", back, 4 * count);
  device::launch(pack_pairs<S>, kGrid, {}, from, pairs, back, count);
}

template <class S, int width>
void run_vectors(const void* from, void* to, int64_t count) {
  const emulator::Buffer from_buffer("from", from, sizeof(S) * count);
  const emulator::Buffer to_buffer("to", to, sizeof(S) * count);
  device::launch(double_vectors<S, width>, kGrid, {}, static_cast<const S*>(from),
                 static_cast<S*>(to), count);
}

}  // namespace

extern "C" {

void to_bfloat16(const float* from, device::bfloat16* to, int64_t count) {
  run(from, to, count);
}
void from_bfloat16(const device::bfloat16* from, float* to, int64_t count) {
  run(from, to, count);
}
void to_float16(const float* from, device::float16* to, int64_t count) {
  run(from, to, count);
}
void from_float16(const device::float16* from, float* to, int64_t count) {
  run(from, to, count);
}

void to_tf32(const float* from, uint32_t* to, int64_t count) {
  const emulator::Buffer from_buffer("from", from, 4 * count), to_buffer("to", to, 4 * count);
  device::launch(round_to_tf32, kGrid, {}, from, to, count);
}

void pack_bfloat16(const float* from, uint32_t* pairs, float* back, int64_t count) {
  run_pairs<device::bfloat16>(from, pairs, back, count);
}
void pack_float16(const float* from, uint32_t* pairs, float* back, int64_t count) {
  run_pairs<device::float16>(from, pairs, back, count);
}

void double_float32_by_4(const void* from, void* to, int64_t count) {
  run_vectors<float, 4>(from, to, count);
}
void double_float32_by_2(const void* from, void* to, int64_t count) {
  run_vectors<float, 2>(from, to, count);
}
void double_bfloat16_by_8(const void* from, void* to, int64_t count) {
  run_vectors<device::bfloat16, 8>(from, to, count);
}
void double_float16_by_4(const void* from, void* to, int64_t count) {
  run_vectors<device::float16, 4>(from, to, count);
}

// 4096 floats.
void run_copy_past_caches(const Four* from, Four* to) {
  const emulator::Buffer from_buffer("from", from, 4096 * 4), to_buffer("to", to, 4096 * 4);
  device::launch(copy_past_caches, kGrid, {}, from, to);
}

// tickets: 1 + 256; the others one each.
void run_update(float* sum, int* most, unsigned* tickets, int* lock, int* guarded, uint64_t seed) {
  const emulator::Buffer sum_buffer("sum", sum, 4), most_buffer("most", most, 4);
  const emulator::Buffer tickets_buffer("tickets", tickets, 257 * 4), lock_buffer("lock", lock, 4);
  const emulator::Buffer guarded_buffer("guarded", guarded, 4);
  emulator::set_seed(seed);
  device::launch_cooperative(update, kGrid, {}, sum, most, tickets, lock, guarded);
}
void run_update_plainly(int* guarded, uint64_t seed) {
  const emulator::Buffer guarded_buffer("guarded", guarded, 4);
  emulator::set_seed(seed);
  device::launch_cooperative(update_plainly, kGrid, {}, guarded);
}

void run_misaligned_vector() {
  alignas(16) float from[8] = {}, to[4];
  const emulator::Buffer from_buffer("from", from, sizeof(from)), to_buffer("to", to, sizeof(to));
  device::launch(misaligned_vector, {1, 1}, {}, from, to);
}
void run_read_shared_as_global() {
  float to[1];
  const emulator::Buffer to_buffer("to", to, sizeof(to));
  device::launch(read_shared_as_global, {1, 1}, {}, to);
}

}  // extern "C"
