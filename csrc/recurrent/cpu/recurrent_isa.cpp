// The recurrent kernels of one ISA level; compiled once per level.
#include "recurrent/cpu/bf16_product.h"
#include "recurrent/cpu/cell_kernels.h"
#include "recurrent/cpu/fma_product.h"
#include "recurrent/cpu/unpacked_product.h"

namespace seqkern {
namespace SEQKERN_ISA {

template <class CellType, class Product>
void pack_forward(const void* w_hh, Sizes sizes, void* packed, int64_t begin, int64_t end) {
  using S = typename Product::Storage;
  Weights<Product, CellType::kGates, CellType::kVectors> weights(
      transposed_view<S>(w_hh, sizes.hidden, sizes.state), packed);
  weights.pack({begin, end});
}

template <class Forward, class Backward, class Product>
CellKernels cell_kernels() {
  return {forward_loop<Forward, Product>, backward_loop<Backward, Product>,
          pack_forward<Forward, Product>, Forward::kVectors / Forward::kGates * Product::kLanes,
          Product::kColumnVectors * Product::kLanes};
}

template <class Product>
ProductKernels product_kernels() {
  using S = typename Product::Storage;
  constexpr int kColumns = Product::kColumnVectors;
  ProductKernels k;
  k.cell[int(Cell::kLstm)] = cell_kernels<LstmForward<S>, LstmBackward<S, kColumns>, Product>();
  k.cell[int(Cell::kGru)] = cell_kernels<GruForward<S>, GruBackward<S, kColumns>, Product>();
  k.cell[int(Cell::kRnnTanh)] =
      cell_kernels<RnnForward<S, false>, RnnBackward<S, kColumns, false>, Product>();
  k.cell[int(Cell::kRnnRelu)] =
      cell_kernels<RnnForward<S, true>, RnnBackward<S, kColumns, true>, Product>();
  k.packed_bytes = [](int64_t depth, int64_t units, int64_t block_units, int gates) -> int64_t {
    const int vectors = gates * static_cast<int>(block_units / Product::kLanes);
    return ceil_div(units, block_units) * Product::block_size(depth, vectors) *
           sizeof(typename Product::Weight);
  };
  k.operand_bytes = [](int64_t rows, int64_t depth) -> int64_t {
    if (!Product::copies_operand(depth)) return 0;
    return round_up(rows * Product::operand_stride(depth) * sizeof(typename Product::Operand), 64);
  };
  return k;
}

template <class Product, class S>
RecurrentKernels kernels() {
  return {product_kernels<Product>(), product_kernels<Unpacked<S>>()};
}

// Fills the table that recurrent_kernels() reads. A level that has nothing new for a type leaves
// its entry as the level below filled it.
void fill_recurrent_kernels(RecurrentKernels* by_storage) {
#ifdef __AVX512BF16__
  by_storage[int(Storage::kBfloat16)].packed = product_kernels<PackedBf16>();
#else
  by_storage[int(Storage::kFloat)] = kernels<PackedFma<float>, float>();
  by_storage[int(Storage::kDouble)] = kernels<PackedFma<double>, double>();
  by_storage[int(Storage::kBfloat16)] = kernels<PackedFma<bfloat16>, bfloat16>();
#endif
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
