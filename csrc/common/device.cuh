// All that a kernel in *_kernels.cuh may use of CUDA. Under a plain C++ compiler the same names
// lead to the emulator in tests/cuda_host, so every kernel is tested where there is no GPU.
//
// Memory is reached through load() and store(), which the emulator checks against the bounds of the
// buffers; they also convert between the storage type and the type that is computed in.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>
#else
#include <cmath>

#include "emulator.h"
#endif

#include "common/host_device.h"

namespace seqkern::device {

constexpr int kWarp = 32;

struct Grid {
  int blocks;
  int threads;  // in each block
};

// Storage only: arithmetic happens in float.
struct bfloat16 {
  uint16_t bits;
};

#ifdef __CUDACC__

#define SEQKERN_KERNEL __global__ void
#define SEQKERN_DEVICE __device__ __forceinline__
#define SEQKERN_SHARED(type, name, count) __shared__ type name[count]

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

SEQKERN_DEVICE void barrier() {
  __syncthreads();
}

// The value of the thread whose lane differs in the bits of `mask`. All lanes of the warp take
// part.
template <class T>
SEQKERN_DEVICE T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}

template <class T>
SEQKERN_DEVICE T read(const T* p) {
  return *p;
}

template <class T>
SEQKERN_DEVICE void write(T* p, T value) {
  *p = value;
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), Grid grid, Stream stream, Arguments... arguments) {
  kernel<<<grid.blocks, grid.threads, 0, stream>>>(arguments...);
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string("a CUDA kernel did not start: ") +
                             cudaGetErrorString(error));
  }
}

#else

#define SEQKERN_KERNEL void
#define SEQKERN_DEVICE inline
#define SEQKERN_SHARED(type, name, count) \
  type* const name = static_cast<type*>(  \
      emulator::shared_memory(#name, sizeof(type) * (count), __FILE__, __LINE__))

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

// The default arguments name the caller's place in the source.
inline void barrier(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  emulator::barrier(file, line);
}

template <class T>
T shuffle_xor(T value, int mask, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  static_assert(sizeof(T) <= sizeof(uint64_t), "a lane hands over at most 64 bits");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = emulator::shuffle_xor(bits, mask, file, line);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

template <class T>
T read(const T* p) {
  emulator::check_read(p, sizeof(T));
  return *p;
}

template <class T>
void write(T* p, T value) {
  emulator::check_write(p, sizeof(T));
  *p = value;
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), Grid grid, Arguments... arguments) {
  emulator::run(grid.blocks, grid.threads, [=] { kernel(arguments...); });
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

SEQKERN_DEVICE float load(const float* p) {
  return read(p);
}
SEQKERN_DEVICE double load(const double* p) {
  return read(p);
}
SEQKERN_DEVICE void store(float* p, float x) {
  write(p, x);
}
SEQKERN_DEVICE void store(double* p, double x) {
  write(p, x);
}

SEQKERN_DEVICE float load(const bfloat16* p) {
  const uint32_t bits = uint32_t{read(p).bits} << 16;
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

// Rounds to nearest even; a NaN stays a (quiet) NaN.
SEQKERN_DEVICE void store(bfloat16* p, float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const uint32_t quiet_nan = (bits >> 16) | 0x40;
  write(p, bfloat16{static_cast<uint16_t>(x == x ? rounded : quiet_nan)});
}

}  // namespace seqkern::device

namespace seqkern {

// For the cells' maths (recurrent/*.h), which is written for SIMD vectors and plain numbers alike.
SEQKERN_HOST_DEVICE float sigmoid(float x) {
  return 1 / (1 + expf(-x));
}
SEQKERN_HOST_DEVICE double sigmoid(double x) {
  return 1 / (1 + exp(-x));
}
SEQKERN_HOST_DEVICE float tanh_(float x) {
  return tanhf(x);
}
SEQKERN_HOST_DEVICE double tanh_(double x) {
  return tanh(x);
}

}  // namespace seqkern
