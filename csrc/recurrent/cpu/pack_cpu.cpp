// Packs recurrent weights once for many calls (seqkern.freeze_).
#include <torch/csrc/stable/library.h>

#include <cstring>

#include "common/ceil_div.h"
#include "recurrent/cpu/layer_cpu.h"

namespace seqkern {

namespace {

Tensor recurrent_pack(const Tensor& w_hh, int64_t gates) {
  check(gates == 4 || gates == 3 || gates == 1,
        "gates should be 4 (LSTM), 3 (GRU) or 1 (RNN), but it is ", gates);
  check(w_hh.dim() == 2 && w_hh.size(0) % gates == 0,
        "w_hh should have the shape (gates * hidden, state), but it has the shape ",
        shape_text(w_hh));
  const Tensor weights = as_contiguous(w_hh);
  const Storage storage = storage_of("w_hh", weights.scalar_type());
  const Cell cell = gates == 4 ? Cell::kLstm : gates == 3 ? Cell::kGru : Cell::kRnnTanh;
  const ProductKernels& product = recurrent_kernels(storage).packed;
  const CellKernels& kernels = product.cell[static_cast<int>(cell)];
  const Sizes sizes{weights.size(0) / gates, weights.size(1)};
  const int64_t bytes = product.packed_bytes(sizes.state, sizes.hidden, kernels.forward_units,
                                             static_cast<int>(gates));
  const Tensor packed = empty({bytes + kPackedTagBytes}, ScalarType::Byte);
  const PackedTag tag(storage, gates, sizes);
  std::memcpy(static_cast<char*>(packed.mutable_data_ptr()) + bytes, &tag, sizeof(tag));
  const int64_t blocks = ceil_div(sizes.hidden, kernels.forward_units);
  torch::stable::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    kernels.pack(weights.const_data_ptr(), sizes, packed.mutable_data_ptr(), begin, end);
  });
  return packed;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(seqkern, CPU, m) {
  m.impl("recurrent_pack", TORCH_BOX(&recurrent_pack));
}

}  // namespace seqkern
