// Runs CUDA kernels on the CPU, for tests: each CUDA thread is a fiber, each block runs to its end
// before the next. The order of blocks and of the threads between two barriers is drawn from a
// seed, so a missing barrier shows as a result that depends on the seed. The process aborts with a
// message on
//   - an access outside every registered buffer and outside the block's shared memory,
//   - a misaligned access, or a write into a buffer that was registered as read-only,
//   - a barrier or a shuffle that not all threads of the block or warp reach at the same place.
// Shared memory starts as NaN in each block.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

namespace seqkern::emulator {

// While it lives, kernels may access these bytes.
class Buffer {
 public:
  Buffer(const char* name, const void* begin, size_t bytes);  // read-only
  Buffer(const char* name, void* begin, size_t bytes);
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer();
};

void set_seed(uint64_t seed);

// Runs `kernel` once for every thread of a grid.
void run(int blocks, int threads, const std::function<void()>& kernel);

// ---- for csrc/common/device.cuh: what a running kernel asks for ----

int thread();
int block();
int threads();
int blocks();

void barrier(const char* file, int line);
uint64_t shuffle_xor(uint64_t bits, int mask, const char* file, int line);
// The block's array that is declared at this place; all its threads get the same one.
void* shared_memory(const char* name, size_t bytes, const char* file, int line);
void check_read(const void* address, size_t bytes);
void check_write(const void* address, size_t bytes);

}  // namespace seqkern::emulator
