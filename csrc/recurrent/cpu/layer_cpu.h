// What the recurrent CPU operators share: chunks of the steps, and how the work is spread.
#pragma once

#include <vector>

#include "recurrent/layer_arguments.h"

namespace seqkern {

// Consecutive rows of the input.
struct RowRange {
  int64_t first, count;
};

// A checked layer call on the CPU. A missing h0 is there as zeros.
class Layer : public LayerCall {
 public:
  explicit Layer(const LayerArguments& arguments);

  Storage storage() const { return storage_; }
  Steps steps() const {
    return {static_cast<int64_t>(active.size()), batch, active.data(), offset.data()};
  }
  const RecurrentKernels& kernels() const { return recurrent_kernels(storage_); }
  const CellKernels& cell_kernels(const ProductKernels& product) const {
    return product.cell[static_cast<int>(cell)];
  }

  // The rows that steps [begin, end) work on; they are consecutive in either direction.
  RowRange rows_of(int64_t begin, int64_t end) const;
  // Cuts the steps into chunks of at most `most_rows` rows, or of one step with more. Returns the
  // steps that the chunks end before.
  std::vector<int64_t> chunk_ends(int64_t most_rows) const;

  // `checked`, and zeros where t is not given.
  Tensor checked_or_zeros(const char* name, const OptionalTensor& t, const Shape& shape) const;

  // So few rows in all that packing the recurrent weights would cost more than it saves, and that
  // even the input's projection is better done with each step than by a library's product.
  bool few_rows() const;

  // How many threads the loop over time is worth, and over what they share it. Blocks are of the
  // product's columns.
  Split split(int64_t blocks) const;

  Tensor zeros(const Shape& shape, ScalarType type) const;

 private:
  Storage storage_;
};

// The distance between rows of a working buffer. Rows a multiple of 1 KiB apart would meet in a few
// sets of L1 and evict each other, so such rows get a cache line more.
inline int64_t padded_row(int64_t features, const Tensor& like) {
  const int64_t bytes = features * static_cast<int64_t>(like.element_size());
  return bytes % 1024 == 0 ? features + 64 / static_cast<int64_t>(like.element_size()) : features;
}

// Working memory of a call.
class WorkingMemory {
 public:
  // Null for 0 bytes.
  void* room(int64_t bytes) {
    if (bytes == 0) return nullptr;
    tensors_.push_back(empty({bytes}, ScalarType::Byte));
    return tensors_.back().mutable_data_ptr();
  }
  void release() { tensors_.clear(); }

 private:
  std::vector<Tensor> tensors_;
};

// Stands behind packed weights that outlive a call (see prepack_): what they were packed for.
struct PackedTag {
  int64_t isa, storage, gates, hidden, state;
  int64_t reserved[3];

  PackedTag(Storage storage, int64_t gates, Sizes sizes);
};
constexpr int64_t kPackedTagBytes = sizeof(PackedTag);

// Runs a kernel's parallel region.
template <class Args>
void run_slots(void (*kernel)(const Args&, Slots, Barrier&), const Args& args) {
  const int slots = args.split.slots;
  Barrier barrier(slots);
  torch::stable::parallel_for(0, slots, 1, [&](int64_t begin, int64_t end) {
    kernel(args, Slots{static_cast<int>(begin), static_cast<int>(end), slots}, barrier);
  });
}

}  // namespace seqkern
