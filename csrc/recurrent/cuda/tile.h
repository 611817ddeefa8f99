// The sizes that the layer's kernels and their plan agree on.
#pragma once

namespace seqkern {

constexpr int kWarpThreads = 32;
constexpr int kMostWarps = 8;      // of a block: with more, a thread had too few registers
constexpr int kTileRows = 16;      // of a tensor-core product: rows of the weights
constexpr int kTileColumns = 8;    // of a tensor-core product: rows of the batch
constexpr int kMultiplyRows = 16;  // rows of the batch that a warp multiplies at a time
constexpr int kPassRows = 32;      // rows of the batch after which the warps of a block meet
// The depth is cut into chunks of so many bytes: 16 for each of the 4 threads that share a row of a
// tensor-core operand, which is two tensor-core products deep.
constexpr int kChunkBytes = 64;
// The distance between rows of sums in shared memory: odd, so that threads which read the sums of
// consecutive units find them in different banks.
constexpr int kSumStride = kPassRows + 1;
constexpr int kMostTasks = 8;   // loops side by side in one launch
constexpr int kChainSlots = 8;  // steps that a layer of a wave may be ahead of the next one

}  // namespace seqkern
