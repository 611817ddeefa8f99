// What the emulator says when threads cannot go on.
#pragma once

#include "machine.h"

namespace seqkern::emulator {

// No thread can go on, or those that can only look at flags that nobody sets: says who waits where.
[[noreturn]] void fail_stuck();
// `waiting` waits for all of its block or warp, and `other`, one of them, does something else.
[[noreturn]] void fail_divergent(const Thread& waiting, const Thread& other);

}  // namespace seqkern::emulator
