// Which compiler this is: nvcc, or a plain C++ compiler whose kernels run on the emulator in
// tests/cuda_host. Every other file of this directory says what it has twice, once for each.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#include <cuda_runtime.h>
#else
#include "emulator.h"
#endif

#include "common/host_device.h"

#ifdef __CUDACC__
#define SEQKERN_KERNEL __global__ void
#define SEQKERN_DEVICE __device__ __forceinline__
#define SEQKERN_UNROLL _Pragma("unroll")  // before a loop whose counter indexes registers
// Before a kernel's parameter: all threads read it where it lies, also with a variable index.
#define SEQKERN_CONSTANT const __grid_constant__
#else
#define SEQKERN_KERNEL void
#define SEQKERN_DEVICE inline
#define SEQKERN_UNROLL
#define SEQKERN_CONSTANT const
#endif

// Statements for sm_90 and later. A kernel that gets there on an older GPU ends with an error: the
// code that launches it has to know.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define SEQKERN_SINCE_SM90(...) __trap()
#else
#define SEQKERN_SINCE_SM90(...) __VA_ARGS__
#endif

namespace seqkern::device {

constexpr int kWarp = 32;

// Where in the source something is asked for, which the emulator names in its messages. As a last
// argument `Place place = here()` it is the caller's place, however many functions pass it on.
#ifdef __CUDACC__
struct Place {};
SEQKERN_DEVICE constexpr Place here() {
  return {};
}
#else
using Place = seqkern::Place;
constexpr Place here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return {file, line};
}
#endif

}  // namespace seqkern::device
