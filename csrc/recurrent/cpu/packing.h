// The order in which a recurrent weight matrix is packed, shared by the code that packs and the
// products that read.
//
// A recurrent product is A (rows x K) times a matrix with K rows whose columns are kept in
// *blocks*: all gates of `kUnits` neighbouring hidden units stand side by side, so that a block's
// product is all that these units' cells need. A block has kVectors = gates * units / lanes vectors
// of columns; columns past the last unit are zero.
#pragma once

#include "common/blocks.h"

namespace seqkern {
namespace SEQKERN_ISA {

// element(k, gate, unit) = data[k * k_stride + gate * gate_stride + unit * unit_stride]
template <class S>
struct WeightView {
  const S* data;
  int64_t k_stride, gate_stride, unit_stride;
  int64_t depth, units;  // K, hidden units
};

}  // namespace SEQKERN_ISA
}  // namespace seqkern
