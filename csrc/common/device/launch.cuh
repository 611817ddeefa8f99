// Where a thread stands in its grid, and how grids are launched.
#pragma once

#include <tuple>
#include <type_traits>

#include "common/ceil_div.h"
#include "common/device/platform.cuh"

#ifdef __CUDACC__
#include <stdexcept>
#include <string>
#endif

namespace seqkern::device {

struct Grid {
  int blocks;
  int threads;             // in each block
  int dynamic_shared = 0;  // bytes for each block, see SEQKERN_DYNAMIC_SHARED
};

#ifdef __CUDACC__

using Stream = cudaStream_t;

SEQKERN_DEVICE int thread() {
  return threadIdx.x;
}
SEQKERN_DEVICE int block() {
  return blockIdx.x;
}
SEQKERN_DEVICE int threads() {
  return blockDim.x;
}
SEQKERN_DEVICE int blocks() {
  return gridDim.x;
}

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
  }
}

// Beyond 48 KiB a kernel has to ask for dynamic shared memory by name.
template <class... Parameters>
void allow_dynamic_shared(void (*kernel)(Parameters...), int bytes) {
  if (bytes <= 48 * 1024) return;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "a CUDA kernel's shared memory does not fit this GPU");
}

// The attributes hold for this one launch; nothing of the kernel's state but the shared memory that
// it may take is changed.
template <class... Parameters, class... Arguments>
void launch_with(const cudaLaunchAttribute* attributes, int count, void (*kernel)(Parameters...),
                 Grid grid, Stream stream, Arguments... arguments) {
  allow_dynamic_shared(kernel, grid.dynamic_shared);
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(grid.blocks);
  config.blockDim = dim3(grid.threads);
  config.dynamicSmemBytes = grid.dynamic_shared;
  config.stream = stream;
  config.attrs = const_cast<cudaLaunchAttribute*>(attributes);
  config.numAttrs = count;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...),
        "a CUDA kernel did not start");
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), Grid grid, Stream stream, Arguments... arguments) {
  launch_with(nullptr, 0, kernel, grid, stream, arguments...);
}

// All blocks are on the GPU at the same time, so they may wait for one another; more blocks than
// most_resident_blocks() do not start.
template <class... Parameters, class... Arguments>
void launch_cooperative(void (*kernel)(Parameters...), Grid grid, Stream stream,
                        Arguments... arguments) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = 1;
  launch_with(&attribute, 1, kernel, grid, stream, arguments...);
}

// Blocks [i * cluster, (i + 1) * cluster) run at the same time on neighbouring processors and reach
// each other's shared memory (sm_90 and later; more than 8 blocks are a matter of luck). With
// `cooperative`, all clusters are on the GPU at the same time as well.
template <class... Parameters, class... Arguments>
void launch_clusters(void (*kernel)(Parameters...), Grid grid, int cluster, bool cooperative,
                     Stream stream, Arguments... arguments) {
  if (cluster > 8) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1),
          "a CUDA kernel cannot run in clusters of more than 8 blocks");
  }
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim.x = cluster;
  attributes[0].val.clusterDim.y = 1;
  attributes[0].val.clusterDim.z = 1;
  attributes[1].id = cudaLaunchAttributeCooperative;
  attributes[1].val.cooperative = 1;
  launch_with(attributes, cooperative ? 2 : 1, kernel, grid, stream, arguments...);
}

// How many blocks of this shape the current GPU holds at the same time. grid.blocks is not looked
// at.
template <class... Parameters>
int most_resident_blocks(void (*kernel)(Parameters...), Grid grid) {
  allow_dynamic_shared(kernel, grid.dynamic_shared);
  int device = 0, processors = 0, blocks = 0;
  check(cudaGetDevice(&device), "the current GPU");
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device),
        "the GPU's processors");
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, grid.threads,
                                                      grid.dynamic_shared),
        "a CUDA kernel's resident blocks");
  return blocks * processors;
}

#else

struct Stream {};  // there is one, and a launch returns when the grid has ended

inline int thread() {
  return emulator::thread();
}
inline int block() {
  return emulator::block();
}
inline int threads() {
  return emulator::threads();
}
inline int blocks() {
  return emulator::blocks();
}

template <class... Parameters, class... Arguments>
void emulate(void (*kernel)(Parameters...), Grid grid, int cluster, bool cooperative,
             Arguments... arguments) {
  const emulator::Launch launch = {grid.blocks, grid.threads, grid.dynamic_shared, cluster,
                                   cooperative};
  emulator::run(launch, [=] { kernel(arguments...); });
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), Grid grid, Stream, Arguments... arguments) {
  emulate(kernel, grid, 1, false, arguments...);
}

template <class... Parameters, class... Arguments>
void launch_cooperative(void (*kernel)(Parameters...), Grid grid, Stream, Arguments... arguments) {
  emulate(kernel, grid, 1, true, arguments...);
}

template <class... Parameters, class... Arguments>
void launch_clusters(void (*kernel)(Parameters...), Grid grid, int cluster, bool cooperative,
                     Stream, Arguments... arguments) {
  emulate(kernel, grid, cluster, cooperative, arguments...);
}

template <class... Parameters>
int most_resident_blocks(void (*)(Parameters...), Grid grid) {
  return emulator::most_resident_blocks(grid.threads, grid.dynamic_shared);
}

#endif

// ---- what is the same for both ----

// This thread among all threads of the grid, and their number: the start and the stride of a loop.
SEQKERN_DEVICE int64_t grid_thread() {
  return int64_t{block()} * threads() + thread();
}
SEQKERN_DEVICE int64_t grid_threads() {
  return int64_t{blocks()} * threads();
}

// This thread within its warp, this warp within its block, and the warps of a block.
SEQKERN_DEVICE int lane() {
  return thread() % kWarp;
}
SEQKERN_DEVICE int warp() {
  return thread() / kWarp;
}
SEQKERN_DEVICE int warps() {
  return ceil_div(threads(), kWarp);
}

}  // namespace seqkern::device
