// Copies of whole arrays and tiles by the copy engine (TMA) of sm_90 and later: one thread starts
// one, and it arrives with its bytes at an Arrivals barrier (PTX ISA, "cp.async.bulk",
// "cp.async.bulk.tensor").
#pragma once

#include "common/device/arrivals.cuh"
#include "common/device/launch.cuh"

#ifdef __CUDACC__
#include <cuda.h>
#include <cudaTypedefs.h>
#endif

namespace seqkern::device {

// How a tile's rows lie in shared memory: as they are, or (rows of 128 bytes) with the 16 bytes at
// index i of row r at index i ^ (r % 8), so that ldmatrix and wgmma read columns of them without
// bank conflicts.
enum class Swizzle { kNone, k128 };

#ifdef __CUDACC__

// A matrix in global memory and the size of the tiles that copy_tile() takes of it. A kernel takes
// it by value, as `SEQKERN_CONSTANT TileMap map`.
using TileMap = CUtensorMap;

// (rows, columns) numbers of type S, `stride` numbers from row to row; the base and the bytes of a
// stride are multiples of 16, as are the bytes of a tile's row.
template <class S>
TileMap make_tile_map(const S* base, int64_t rows, int64_t columns, int64_t stride, int tile_rows,
                      int tile_columns, Swizzle swizzle) {
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found;
  check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault,
                                         &found),
        "the CUDA driver's cuTensorMapEncodeTiled");
  if (found != cudaDriverEntryPointSuccess) {
    throw std::runtime_error("the CUDA driver has no cuTensorMapEncodeTiled");
  }
  static_assert(sizeof(S) == 2 || sizeof(S) == 4, "tiles have numbers of 2 or 4 bytes");
  const auto type =
      sizeof(S) == 2 ? CU_TENSOR_MAP_DATA_TYPE_UINT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(stride) * sizeof(S)};
  const cuuint32_t tile[2] = {static_cast<cuuint32_t>(tile_columns),
                              static_cast<cuuint32_t>(tile_rows)};
  const cuuint32_t steps[2] = {1, 1};
  TileMap map;
  const CUresult result = reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(entry)(
      &map, type, 2, const_cast<S*>(base), sizes, strides, tile, steps,
      CU_TENSOR_MAP_INTERLEAVE_NONE,
      swizzle == Swizzle::k128 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE,
      CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    throw std::runtime_error("cuTensorMapEncodeTiled refuses a matrix, error " +
                             std::to_string(static_cast<int>(result)));
  }
  return map;
}

// Global to shared memory: addresses and `bytes` are multiples of 16. The bytes count for the
// current phase of `arrivals`, which somebody has to have announced by arrive_expecting().
SEQKERN_DEVICE void copy_bulk(void* shared, const void* global, int bytes, Arrivals* arrivals,
                              Place = here()) {
  SEQKERN_SINCE_SM90(asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared_address(shared)),
      "l"(global), "r"(bytes), "r"(shared_address(arrivals)) : "memory"));
}

// A two-dimensional tile, see make_tile_map(): its first element is at (row, column), and what lies
// outside the matrix becomes 0. `shared` is a multiple of 128 (with a swizzle, of 1024).
SEQKERN_DEVICE void copy_tile(void* shared, const TileMap* map, int row, int column,
                              Arrivals* arrivals, Place = here()) {
  SEQKERN_SINCE_SM90(asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%2, %3}], [%4];" ::"r"(shared_address(shared)),
      "l"(map), "r"(column), "r"(row), "r"(shared_address(arrivals)) : "memory"));
}

// Shared to global memory: addresses and `bytes` are multiples of 16. Copies make groups as
// copy_async()'s do, by themselves; `shared` may be written again after wait_bulk_stores().
SEQKERN_DEVICE void store_bulk(void* global, const void* shared, int bytes, Place = here()) {
  SEQKERN_SINCE_SM90(
      asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(global),
                   "r"(shared_address(shared)), "r"(bytes) : "memory");
      asm volatile("cp.async.bulk.commit_group;" :: : "memory"));
}
SEQKERN_DEVICE void wait_bulk_stores(Place = here()) {
  SEQKERN_SINCE_SM90(asm volatile("cp.async.bulk.wait_group 0;" :: : "memory"));
}

// Between what a thread wrote into shared memory and what the copy engine or wgmma reads there:
// they look at it in another way (PTX ISA, "Async proxy"). By the writing threads, before the
// barrier.
SEQKERN_DEVICE void fence_async_proxy(Place = here()) {
  SEQKERN_SINCE_SM90(asm volatile("fence.proxy.async.shared::cta;" :: : "memory"));
}

#else

using TileMap = emulator::TileMap;

template <class S>
TileMap make_tile_map(const S* base, int64_t rows, int64_t columns, int64_t stride, int tile_rows,
                      int tile_columns, Swizzle swizzle) {
  return emulator::make_tile_map(base, sizeof(S), rows, columns, stride, tile_rows, tile_columns,
                                 swizzle == Swizzle::k128);
}

inline void copy_bulk(void* shared, const void* global, int bytes, Arrivals* arrivals,
                      Place place = here()) {
  emulator::copy_bulk(shared, global, bytes, arrivals, place);
}
inline void copy_tile(void* shared, const TileMap* map, int row, int column, Arrivals* arrivals,
                      Place place = here()) {
  emulator::copy_tile(shared, *map, row, column, arrivals, place);
}
inline void store_bulk(void* global, const void* shared, int bytes, Place place = here()) {
  emulator::store_bulk(global, shared, bytes, place);
}
inline void wait_bulk_stores(Place place = here()) {
  emulator::wait_bulk_stores(place);
}
inline void fence_async_proxy(Place = here()) {}

#endif

}  // namespace seqkern::device
