// What the kernels of a single step share: vectors of units, and gradients that are kept in the
// storage or in the compute type.
#pragma once

#include "common/blocks.h"
#include "recurrent/cells/gru.h"
#include "recurrent/cells/lstm.h"
#include "recurrent/cells/rnn.h"
#include "recurrent/cpu/step_kernels.h"

namespace seqkern {
namespace SEQKERN_ISA {

// The first n lanes at p + offset, or zeros where there is no p.
template <class S>
inline Vec<compute_t<S>> load_or_zero(const void* p, int64_t offset, int n) {
  return p ? load_first(static_cast<const S*>(p) + offset, n) : Vec<compute_t<S>>(compute_t<S>(0));
}

inline int64_t share_begin(int64_t total, Slots slots) {
  return total * slots.begin / slots.total;
}
inline int64_t share_end(int64_t total, Slots slots) {
  return total * slots.end / slots.total;
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
