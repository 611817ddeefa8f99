#pragma once
// Which words are kept, drawn as negatives, and where they stand in the Huffman tree.

#include <cstdint>
#include <vector>

namespace seqkern::text {

// Draws k uniformly below the size and u below 2^32: k if u < thresholds[k], else aliases[k].
struct AliasTable {
  std::vector<uint32_t> thresholds;
  std::vector<int32_t> aliases;
};

// The weights are finite, not negative, not all 0, and at most 2^31 - 1. The table gives entry i
// the probability q_i / (size * 2^32) for whole numbers q_i, exactly; q_i is less than 1 away from
// its share of the weights, which is computed to a relative 2^-50, and 0 for a weight of 0.
AliasTable alias_table(const std::vector<double>& weights);

// Each word's inner nodes from the root on, and its turn at each of them.
struct HuffmanPaths {
  std::vector<int64_t> offsets;  // one more than words
  std::vector<int32_t> nodes;
  std::vector<uint8_t> codes;
};

// word2vec.c's tree. The counts fall or stay and are not negative; their sum fits 63 bits.
HuffmanPaths huffman(const std::vector<int64_t>& counts);

}  // namespace seqkern::text
