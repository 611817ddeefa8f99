// Attention of few queries against many keys (decoding), limited by how fast keys and values are
// read.
#pragma once

#include "attention/cpu/kernels.h"

namespace seqkern {

// Whether a call is one for decode(): few queries a sequence, no dropout.
bool decodes(const Problem& problem);

// Fills output and lse. Deterministic, whatever the number of threads.
void decode(const ForwardCall& call, Storage storage);

}  // namespace seqkern
