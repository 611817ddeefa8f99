// One kernel for each file of csrc/common/device that calls all of its wrappers, for
// test_nvcc.py: what the emulator runs has to be what nvcc compiles, for every architecture.
#include "common/device.cuh"

using namespace seqkern;

namespace {

template <class S>
SEQKERN_KERNEL memory_and_numbers(const S* x, S* y, uint32_t* pairs) {
  SEQKERN_SHARED(S, fixed, 1024);
  SEQKERN_DYNAMIC_SHARED(S, dynamic);
  using Eight = device::Vector<S, 16 / sizeof(S)>;
  const auto at = device::grid_thread();
  const auto* from = reinterpret_cast<const Eight*>(x);
  auto* to = reinterpret_cast<Eight*>(y);
  device::write(to + at, device::read_shared_cache(from + at));
  device::write_once(to + at + 1, device::read_once(from + at + 1));
  device::write(to + at + 2, device::read_constant(from + at + 2));
  float values[4];
  device::load_vector(values, x + 4 * at);
  device::store_vector(dynamic + 4 * device::thread(), values);
  device::store(fixed + device::thread(), device::load(x + at));
  device::store_volatile(fixed, device::load_volatile(fixed + 1));
  const uint32_t pair = device::pack<device::bfloat16>(values[0], values[1]);
  pairs[0] = device::pack<device::float16>(device::unpack_low<device::float16>(pair),
                                           device::unpack_high<device::bfloat16>(pair));
  pairs[1] = device::to_tf32(values[2]);
}

SEQKERN_KERNEL warps_and_barriers(float* x, int* votes) {
  float value = device::load(x + device::grid_thread());
  value += device::shuffle_xor(value, 1) + device::shuffle_down(value, 2);
  value += device::shuffle_up(value, 4) + device::shuffle(value, 8);
  device::warp_sync();
  device::barrier();
  device::named_barrier_arrive(1, 64);
  device::named_barrier(2, 64);
  votes[0] = device::ballot(value > 0) + device::any(value > 1) + device::all(value > 2);
  device::store(x + device::grid_thread(), value);
}

SEQKERN_KERNEL atomics_and_flags(float* x, int* n, uint32_t* flags) {
  using device::Scope;
  device::atomic_add(x, 1.0f);
  device::atomic_add<Scope::kBlock>(n, 1);
  device::atomic_max<Scope::kSystem>(n, 2);
  device::atomic_exchange<Scope::kGpu>(n, 3);
  device::atomic_compare_and_swap(n, 4, 5);
  device::store_release(flags, device::load_acquire(flags + 1));
  device::store_relaxed(flags + 2, device::load_relaxed(flags + 3));
  device::add_release(flags + 4, 1u);
  device::fence<Scope::kBlock>();
  device::fence();
  device::fence<Scope::kSystem>();
  device::GridBarrier grid(flags + 8);
  grid.wait();
}

template <class S>
SEQKERN_KERNEL copies_and_products(const S* x, float* y) {
  SEQKERN_DYNAMIC_SHARED(S, tile);
  const int per_thread = 16 / sizeof(S);
  device::copy_async<16>(tile + per_thread * device::thread(), x + per_thread * device::thread());
  device::copy_async<8>(tile + per_thread * device::thread(), x + per_thread * device::thread(), 4);
  device::copy_async<4>(tile + per_thread * device::thread(), x + per_thread * device::thread(), 0);
  device::commit_copies();
  device::wait_copies<1>();
  device::wait_copies<0>();
  device::barrier();
  const S* row = tile + per_thread * device::lane();
  uint32_t a[4], b[2], c[1];
  float sum[4] = {};
  device::load_matrix(a, row);
  device::load_matrix(b, row);
  device::load_matrix(c, row);
  device::multiply_add<S>(sum, a, b);
  device::load_matrix_transposed(a, row + c[0] % 2 * 16);
  device::load_matrix_transposed(b, row);
  device::load_matrix_transposed(c, row);
  device::multiply_add<S>(sum, a, b);
  for (int i = 0; i < 4; ++i) {
    device::store(y + 8 * device::sum_row(i) + device::sum_column(i) + c[0] % 2, sum[i]);
  }
}

SEQKERN_KERNEL clusters_and_bulk_copies(SEQKERN_CONSTANT device::TileMap map, const float* x,
                                        float* y) {
  SEQKERN_DYNAMIC_SHARED(float, tile);
  SEQKERN_SHARED(device::Arrivals, arrivals, 1);
  if (device::thread() == 0) device::init(arrivals, 3);
  device::cluster_barrier();
  const int next = (device::cluster_rank() + 1) % device::cluster_blocks();
  device::store(device::map_shared_rank(tile, next) + 4096, 1.0f);
  if (device::thread() == 0) {
    device::arrive_expecting(arrivals, 2048 + 2048);
    device::copy_bulk(tile, x, 2048, arrivals);
    device::copy_tile(tile + 512, &map, 0, 0, arrivals);
    device::arrive(arrivals);
    device::arrive_at_rank(arrivals, next);
  }
  device::wait(arrivals, 0);
  device::fence_async_proxy();
  device::barrier();
  if (device::thread() == 0) {
    device::store_bulk(y, tile, 1024);
    device::wait_bulk_stores();
  }
  device::cluster_barrier();
}

}  // namespace

template <class S>
void launch_all(const S* x, S* y, float* z, int* n, uint32_t* u, device::Stream stream) {
  device::launch(memory_and_numbers<S>, {1, 128, 4096}, stream, x, y, u);
  device::launch(warps_and_barriers, {1, 128}, stream, z, n);
  const int blocks = device::most_resident_blocks(atomics_and_flags, {0, 128});
  device::launch_cooperative(atomics_and_flags, {blocks, 128}, stream, z, n, u);
  device::launch(copies_and_products<S>, {1, 128, 64 * 1024}, stream, x, z);
  const auto map = device::make_tile_map(z, 64, 64, 64, 16, 32, device::Swizzle::k128);
  device::launch_clusters(clusters_and_bulk_copies, {8, 128, 64 * 1024}, 4, true, stream, map, z,
                          z);
}

template void launch_all(const float*, float*, float*, int*, uint32_t*, device::Stream);
template void launch_all(const device::bfloat16*, device::bfloat16*, float*, int*, uint32_t*,
                         device::Stream);
template void launch_all(const device::float16*, device::float16*, float*, int*, uint32_t*,
                         device::Stream);
