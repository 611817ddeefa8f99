// Marks functions that both the CPU and CUDA compile.
#pragma once

#ifdef __CUDACC__
#define SEQKERN_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define SEQKERN_HOST_DEVICE inline
#endif
