// What a harness that runs on the emulator and, compiled by nvcc, on a GPU needs of the former. On
// a GPU its pointers have to be the GPU's.
#pragma once

#include "common/device.cuh"

#ifdef __CUDACC__
namespace seqkern {

class Buffer {
 public:
  Buffer(const char*, const void*, size_t) {}
  ~Buffer() {}  // so that nobody wonders why it is not used
};

}  // namespace seqkern
#else
namespace seqkern {

using emulator::Buffer;

}  // namespace seqkern
#endif
