#include "text/samplers.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace seqkern::text {
namespace {

constexpr uint64_t kFull = 1ull << 32;  // what each place of an alias table holds

// Whole numbers near the weights' shares of `total`, which they add up to.
std::vector<uint64_t> shares(const std::vector<double>& weights, uint64_t total) {
  // Divided by the largest, no sum overflows; added with the errors kept (Neumaier).
  const double largest = *std::max_element(weights.begin(), weights.end());
  double sum = 0, error = 0;
  for (const double weight : weights) {
    const double value = weight / largest, next = sum + value;
    error += std::abs(sum) >= value ? (sum - next) + value : (value - next) + sum;
    sum = next;
  }
  const double scale = static_cast<double>(total) / (sum + error);
  std::vector<uint64_t> share(weights.size());
  uint64_t given = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    share[i] = static_cast<uint64_t>(weights[i] / largest * scale);
    given += share[i];
  }
  // Rounding down leaves less than one for each; the first ones with a weight get it. Where
  // numbers above 2^53 were rounded up, the largest give it back.
  for (size_t i = 0; given < total && i < share.size(); ++i) {
    if (weights[i] > 0) {
      ++share[i];
      ++given;
    }
  }
  const size_t top =
      static_cast<size_t>(std::max_element(share.begin(), share.end()) - share.begin());
  share[top] += total - given;  // modulo 2^64: right in both directions
  return share;
}

}  // namespace

AliasTable alias_table(const std::vector<double>& weights) {
  const size_t size = weights.size();
  std::vector<uint64_t> left = shares(weights, size * kFull);
  AliasTable table{std::vector<uint32_t>(size), std::vector<int32_t>(size)};
  std::vector<int32_t> small, large;
  for (size_t i = size; i-- > 0;) {
    (left[i] < kFull ? small : large).push_back(static_cast<int32_t>(i));
  }
  // Whoever has too little for his place shares it with one who has too much (Vose). In whole
  // numbers nothing is lost, so somebody with too much exists as long as one has too little.
  while (!small.empty()) {
    const int32_t poor = small.back(), rich = large.back();
    small.pop_back();
    table.thresholds[poor] = static_cast<uint32_t>(left[poor]);
    table.aliases[poor] = rich;
    left[rich] -= kFull - left[poor];
    if (left[rich] < kFull) {
      large.pop_back();
      small.push_back(rich);
    }
  }
  for (const int32_t alone : large) {  // has exactly its place, whichever way the draw falls
    table.thresholds[alone] = std::numeric_limits<uint32_t>::max();
    table.aliases[alone] = alone;
  }
  return table;
}

HuffmanPaths huffman(const std::vector<int64_t>& counts) {
  const auto words = static_cast<int64_t>(counts.size());
  HuffmanPaths paths;
  paths.offsets.assign(static_cast<size_t>(words) + 1, 0);
  if (words < 2) return paths;

  // Leaves are taken from the rarest up and inner nodes in the order of their making: both rise, so
  // the smallest two of all are always at the fronts. An inner node goes first where counts tie.
  std::vector<int64_t> inner(static_cast<size_t>(words) - 1);
  std::vector<int64_t> parent(static_cast<size_t>(2 * words) - 1);
  std::vector<uint8_t> code(static_cast<size_t>(2 * words) - 1);
  int64_t leaf = words - 1, first = 0;
  for (int64_t made = 0; made < words - 1; ++made) {
    for (const uint8_t turn : {0, 1}) {
      const bool takes_leaf = leaf >= 0 && (first >= made || counts[leaf] < inner[first]);
      inner[made] += takes_leaf ? counts[leaf] : inner[first];
      const int64_t node = takes_leaf ? leaf-- : words + first++;
      parent[node] = made;
      code[node] = turn;
    }
  }
  const int64_t root = words - 2;
  for (int64_t word = 0; word < words; ++word) {
    const size_t start = paths.nodes.size();
    for (int64_t node = word; node != words + root; node = words + parent[node]) {
      paths.nodes.push_back(static_cast<int32_t>(parent[node]));
      paths.codes.push_back(code[node]);
    }
    std::reverse(paths.nodes.begin() + static_cast<std::ptrdiff_t>(start), paths.nodes.end());
    std::reverse(paths.codes.begin() + static_cast<std::ptrdiff_t>(start), paths.codes.end());
    paths.offsets[word + 1] = static_cast<int64_t>(paths.nodes.size());
  }
  return paths;
}

}  // namespace seqkern::text
