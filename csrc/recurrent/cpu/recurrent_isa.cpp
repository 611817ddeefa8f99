// The recurrent kernels of one ISA level; compiled once per level.
#include "common/isa.h"
#include "recurrent/cpu/bf16_product.h"
#include "recurrent/cpu/cell_kernels.h"
#include "recurrent/cpu/fma_product.h"
#include "recurrent/cpu/unpacked_product.h"

namespace seqkern {
namespace SEQKERN_ISA {

// ---- the loops of one cell and product ----

template <class CellType, class Product>
constexpr ForwardCellOf<Product> kForwardCell = {
    kBlockForm<Product, CellType::kGates, CellType::kVectors>, CellType::prefetch_rows,
    CellType::rows};

template <class CellType, class Product>
void forward(const ForwardArgs& args, Slots slots, Barrier& barrier) {
  forward_loop<Product>(kForwardCell<CellType, Product>, args, slots, barrier);
}

template <class CellType, int kColumnVectors>
void prefetch_backward(const BackwardArgs& args, int64_t s, int64_t first_unit, int64_t row,
                       int64_t count) {
  CellType(args, 0).template prefetch_rows<kColumnVectors>(s, first_unit, row, count);
}

template <class CellType>
void backward_rows(const BackwardArgs& args, int first_slot, int column_vectors, int64_t s,
                   int64_t first_unit, int64_t row, int64_t count,
                   const typename CellType::C* grad_h, bool continuing) {
  CellType(args, first_slot).rows(column_vectors, s, first_unit, row, count, grad_h, continuing);
}

template <class CellType, class Product>
constexpr BackwardCellOf<Product> kBackwardCell = {
    CellType::kGates, CellType::kCarriesState, CellType::kInputsFirst,
    prefetch_backward<CellType, Product::kColumnVectors>, backward_rows<CellType>};

template <class CellType, class Product>
void backward(const BackwardArgs& args, Slots slots, Barrier& barrier) {
  backward_loop<Product>(kBackwardCell<CellType, Product>, args, slots, barrier);
}

template <class CellType, class Product>
void pack_forward(const void* w_hh, Sizes sizes, void* packed, int64_t begin, int64_t end) {
  using S = typename Product::Storage;
  Weights<Product> weights(kBlockForm<Product, CellType::kGates, CellType::kVectors>,
                           transposed_view<S>(w_hh, sizes.hidden, sizes.state), packed);
  weights.pack({begin, end});
}

template <class Forward, class Backward, class Product>
CellKernels cell_kernels() {
  return {forward<Forward, Product>, backward<Backward, Product>, pack_forward<Forward, Product>,
          Forward::kVectors / Forward::kGates * Product::kLanes,
          Product::kColumnVectors * Product::kLanes};
}

template <class Product>
ProductKernels product_kernels() {
  using S = typename Product::Storage;
  ProductKernels k;
  k.cell[int(Cell::kLstm)] = cell_kernels<LstmForward<S>, LstmBackward<S>, Product>();
  k.cell[int(Cell::kGru)] = cell_kernels<GruForward<S>, GruBackward<S>, Product>();
  k.cell[int(Cell::kRnnTanh)] =
      cell_kernels<RnnForward<S, false>, RnnBackward<S, false>, Product>();
  k.cell[int(Cell::kRnnRelu)] = cell_kernels<RnnForward<S, true>, RnnBackward<S, true>, Product>();
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
#if SEQKERN_ISA_FROM(avx512_bf16)
  by_storage[int(Storage::kBfloat16)].packed = product_kernels<PackedBf16>();
#else
  by_storage[int(Storage::kFloat)] = kernels<PackedFma<float>, float>();
  by_storage[int(Storage::kDouble)] = kernels<PackedFma<double>, double>();
  by_storage[int(Storage::kBfloat16)] = kernels<PackedFma<bfloat16>, bfloat16>();
#endif
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
