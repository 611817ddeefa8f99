// mbarrier: what the copy engine arrives at.
#pragma once

#include "knowledge.h"
#include "machine.h"

namespace seqkern::emulator {

void forget_arrivals();
// `bytes` have come, and who waits for them knows what `knowledge` says.
void complete_bytes(void* arrivals, int bytes, const Knowledge& knowledge);
// Aborts where there is no such barrier.
void check_arrivals(const void* arrivals, Place place);

}  // namespace seqkern::emulator
