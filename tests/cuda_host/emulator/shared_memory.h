// The shared memory of the blocks that are there.
#pragma once

#include "machine.h"

namespace seqkern::emulator {

enum class Access { kRead, kWrite, kAtomicRead, kAtomicWrite };

inline bool is_write(Access access) {
  return access == Access::kWrite || access == Access::kAtomicWrite;
}
inline bool is_atomic(Access access) {
  return access == Access::kAtomicRead || access == Access::kAtomicWrite;
}
inline const char* name_of(Access access) {
  return is_write(access) ? "write" : "read";
}

void check_atomic(const void* address, size_t bytes, Place place);

// Room for the shared memory of `blocks` blocks of machine.launch.
void begin_shared_memory(int blocks);
// All of it is unset again.
void clear_shared_memory();

// Whether the address lies in any block's shared memory, or next to it.
bool is_shared(const char* address);
// Aborts where it is none of the running thread's block's or cluster's.
void check_shared(const char* address, size_t size, Access access, Place place);
// "byte 4 of 'tile'"
std::string name_of_shared(const char* address);
// The same place in the shared memory of another block of the cluster.
char* in_block(const Block& block, const char* address, Place place);

}  // namespace seqkern::emulator
