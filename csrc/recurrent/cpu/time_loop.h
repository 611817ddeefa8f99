// The loop over time shared by all cells: recurrent product, cell, and whatever the next step
// needs, in one parallel region.
//
// The cells are in cell_kernels.h: rows() applies one to some rows and a block of units,
// prefetch_rows() announces that. The products are in fma_product.h, bf16_product.h and
// unpacked_product.h: each multiplies rows by a block of columns.
#pragma once

#include "common/barrier.h"
#include "recurrent/cpu/packing.h"
#include "recurrent/kernels.h"

namespace seqkern {
namespace SEQKERN_ISA {

struct Range {
  int64_t begin, end;
};

inline Range share(int64_t total, Slots slots) {
  return {total * slots.begin / slots.total, total * slots.end / slots.total};
}

inline Range intersect(Range a, Range b) {
  const int64_t begin = a.begin > b.begin ? a.begin : b.begin;
  const int64_t end = a.end < b.end ? a.end : b.end;
  return {begin, end < begin ? begin : end};
}

// What one callback works on: a range of blocks of columns and a range of rows of the batch.
struct Part {
  Slots slots;
  Range rows;
  bool over_rows;

  Part(const Split& split, Slots owned, int64_t batch) : slots(owned), over_rows(split.over_rows) {
    rows = over_rows ? share(batch, owned) : Range{0, batch};
  }
  Range blocks(int64_t units, int64_t units_per_block) const {
    const int64_t count = ceil_div(units, units_per_block);
    return over_rows ? Range{0, count} : share(count, slots);
  }
  int owned() const { return slots.end - slots.begin; }
  // Units that other callbacks computed may be read after this.
  void synchronize(Barrier& barrier) const {
    if (!over_rows) barrier.wait(owned());
  }
};

// Rows of a matrix that lie in two places: rows below `split` in `first`, the others in `second`
// (both indexed by row).
template <class T>
struct Rows {
  const T* first;
  const T* second;
  int64_t split;
  int64_t stride;

  const T* row(int64_t r) const { return (r < split ? first : second) + r * stride; }
  // The end of the run of evenly spaced rows that begins at r.
  int64_t run_end(int64_t r, int64_t end) const { return r < split && split < end ? split : end; }
};

// Where the product reads its rows: in place, or from a copy in the form that the product wants.
template <class Product>
Rows<typename Product::Operand> operand_rows(const Rows<typename Product::Storage>& rows,
                                             Range range, int64_t depth, void* scratch) {
  using Operand = typename Product::Operand;
  if constexpr (__is_same(typename Product::Storage, Operand)) {
    if (!Product::copies_operand(depth)) return rows;
  }
  Operand* copy = static_cast<Operand*>(scratch);
  const int64_t stride = Product::operand_stride(depth);
  for (int64_t r = range.begin; r < range.end;) {
    const int64_t end = rows.run_end(r, range.end);
    Product::convert_operand(rows.row(r), rows.stride, end - r, depth, copy + r * stride);
    r = end;
  }
  return {copy, copy, range.end, stride};
}

template <class Product, int kGates, int kVectors>
class Weights {
 public:
  using S = typename Product::Storage;
  using C = typename Product::C;
  static constexpr int64_t kUnits = kVectors / kGates * Product::kLanes;

  Weights(const WeightView<S>& view, void* packed)
      : view_(view), packed_(static_cast<typename Product::Weight*>(packed)) {}

  void pack(Range blocks) {
    const int64_t size = Product::block_size(view_.depth, kVectors);
    for (int64_t b = blocks.begin; b < blocks.end; ++b)
      Product::template pack_block<kGates, kVectors>(view_, b, packed_ + b * size);
  }

  // Multiplies rows by each block and hands the product (rows x kVectors vectors) to body(block,
  // first row, rows, product). Without an operand the product is zero. The order of the blocks
  // alternates from step to step: weights that outgrow the second-level cache are then met again
  // from their end, where it still holds them.
  // Before a product, prepare(block, first row, rows) may prefetch what body will need.
  template <class Prepare, class Body>
  void for_blocks(Range blocks, Range rows, const Rows<typename Product::Operand>* a,
                  bool backwards, const Prepare& prepare, const Body& body) const {
    alignas(64) C product[Product::kChunkRows * kVectors * Product::kLanes];
    for (int64_t i = blocks.begin; i < blocks.end; ++i) {
      const int64_t block = backwards ? blocks.begin + blocks.end - 1 - i : i;
      const int64_t next = i + 1 == blocks.end ? block : backwards ? block - 1 : block + 1;
      for (int64_t r = rows.begin; r < rows.end;) {
        const int64_t count =
            smaller<int64_t>(Product::kChunkRows, (a ? a->run_end(r, rows.end) : rows.end) - r);
        prepare(block, r, count);
        if (a)
          Product::template multiply<kGates, kVectors>(a->row(r), a->stride, count, view_, packed_,
                                                       block, next, product);
        else
          std::memset(product, 0, count * kVectors * Product::kLanes * sizeof(C));
        body(block, r, count, product);
        r += count;
      }
    }
  }

 private:
  WeightView<S> view_;
  typename Product::Weight* packed_;
};

constexpr auto kNothingToPrepare = [](int64_t, int64_t, int64_t) {};

// Weights whose rows are outputs, as torch stores them: out = a * w^T.
template <class S>
WeightView<S> transposed_view(const void* w, int64_t units, int64_t depth) {
  return {static_cast<const S*>(w), 1, units * depth, depth, depth, units};
}

// The same weights in the other direction: out = a * w, where w has `depth` rows.
template <class S>
WeightView<S> plain_view(const void* w, int64_t depth, int64_t units) {
  return {static_cast<const S*>(w), units, 0, 1, depth, units};
}

template <class CellType, class Product>
void forward_loop(const ForwardArgs& args, Slots slots, Barrier& barrier) {
  using S = typename Product::Storage;
  using C = typename Product::C;
  constexpr int64_t kLanes = Product::kLanes;
  const Steps& steps = args.steps;
  const int64_t hidden = args.sizes.hidden, state = args.sizes.state;
  const Part part(args.split, slots, steps.batch);
  char* scratch = static_cast<char*>(args.operand) + slots.begin * args.operand_bytes;

  using Recurrent = Weights<Product, CellType::kGates, CellType::kVectors>;
  Recurrent recurrent(transposed_view<S>(args.w_hh, hidden, state), args.packed_hh);
  Recurrent from_input(transposed_view<S>(args.w_ih, hidden, args.input_size), nullptr);
  Weights<Product, 1, Product::kColumnVectors> projection(
      transposed_view<S>(args.w_hr, state, hidden), args.packed_hr);
  const Range unit_blocks = part.blocks(hidden, Recurrent::kUnits);
  const Range state_blocks = part.blocks(state, decltype(projection)::kUnits);

  const bool pack_hh = args.packed_hh && !args.prepacked_hh,
             pack_hr = args.packed_hr && !args.prepacked_hr;
  if (pack_hh) recurrent.pack(share(ceil_div(hidden, Recurrent::kUnits), slots));
  if (pack_hr) projection.pack(share(ceil_div(state, decltype(projection)::kUnits), slots));
  if (pack_hh || pack_hr) barrier.wait(part.owned());

  Product::begin();
  const CellType cell(args);
  S* output = static_cast<S*>(args.output);
  S* hidden_rows = static_cast<S*>(args.hidden);
  for (int64_t s = args.first_step; s < args.end_step; ++s) {
    const int64_t offset = steps.offset[s], gate_offset = offset - args.first_gate_row;
    const Range rows = intersect(part.rows, {0, steps.active[s]});
    const bool backwards = s % 2;

    if (args.input) {
      const S* input = static_cast<const S*>(args.input) + offset * args.input_size;
      const Rows<S> all{input, input, steps.active[s], args.input_size};
      const auto a = operand_rows<Product>(all, rows, args.input_size, scratch);
      from_input.for_blocks(
          unit_blocks, rows, &a, backwards, kNothingToPrepare,
          [&](int64_t block, int64_t row, int64_t count, const C* product) {
            for (int64_t r = 0; r < count; ++r)
              for (int v = 0; v < CellType::kVectors; ++v) {
                constexpr int kUnitVectors = CellType::kVectors / CellType::kGates;
                const int64_t unit = block * Recurrent::kUnits + v % kUnitVectors * kLanes;
                if (unit >= hidden) continue;
                S* to = static_cast<S*>(args.gates) + (gate_offset + row + r) * args.gates_stride +
                        v / kUnitVectors * hidden + unit;
                store_first(to, load(product + (r * CellType::kVectors + v) * kLanes),
                            static_cast<int>(smaller(kLanes, hidden - unit)));
              }
          });
    }

    // Rows that took part in the step before continue from its output, the others begin at h0.
    const S* h0 = static_cast<const S*>(args.h0);
    const int64_t continuing = s ? smaller(steps.active[s - 1], steps.active[s]) : 0;
    const Rows<S> h_prev{s ? output + steps.offset[s - 1] * state : h0, h0, continuing, state};
    const auto a = operand_rows<Product>(h_prev, rows, state, scratch);
    S* out = output + offset * state;
    S* raw = hidden_rows ? hidden_rows + (args.save ? offset * hidden : 0) : out;
    const auto prefetch_cell = [&](int64_t block, int64_t row, int64_t count) {
      cell.prefetch_rows(gate_offset, block * Recurrent::kUnits, row, count, raw);
    };
    recurrent.for_blocks(unit_blocks, rows, &a, backwards, prefetch_cell,
                         [&](int64_t block, int64_t row, int64_t count, const C* product) {
                           cell.rows(gate_offset, block * Recurrent::kUnits, row, count, product,
                                     h_prev, raw);
                         });

    if (hidden_rows) {
      part.synchronize(barrier);
      const Rows<S> all{raw, raw, steps.active[s], hidden};
      const auto b = operand_rows<Product>(all, rows, hidden, scratch);
      projection.for_blocks(
          state_blocks, rows, &b, backwards, kNothingToPrepare,
          [&](int64_t block, int64_t row, int64_t count, const C* product) {
            for (int64_t r = 0; r < count; ++r)
              for (int v = 0; v < Product::kColumnVectors; ++v) {
                const int64_t unit = block * decltype(projection)::kUnits + v * kLanes;
                if (unit >= state) continue;
                store_first(out + (row + r) * state + unit,
                            load(product + (r * Product::kColumnVectors + v) * kLanes),
                            static_cast<int>(smaller(kLanes, state - unit)));
              }
          });
    }
    if (s + 1 < args.end_step) part.synchronize(barrier);
  }
  Product::end();
}

template <class CellType, class Product>
void backward_loop(const BackwardArgs& args, Slots slots, Barrier& barrier) {
  using S = typename Product::Storage;
  using C = typename Product::C;
  using V = Vec<C>;
  constexpr int64_t kLanes = Product::kLanes;
  const Steps& steps = args.steps;
  const int64_t hidden = args.sizes.hidden, state = args.sizes.state;
  const int64_t depth =
      CellType::kGates *
      hidden;  // of the recurrent product: gradients of the gates that saw the state
  const Part part(args.split, slots, steps.batch);
  char* scratch = static_cast<char*>(args.operand) + slots.begin * args.operand_bytes;

  constexpr int kColumnVectors = Product::kColumnVectors;
  using Columns = Weights<Product, 1, kColumnVectors>;
  Columns recurrent(plain_view<S>(args.w_hh, depth, state), args.packed_hh);
  Columns projection(plain_view<S>(args.w_hr, state, hidden), args.packed_hr);
  const Range state_blocks = part.blocks(state, Columns::kUnits),
              unit_blocks = part.blocks(hidden, Columns::kUnits);

  if (args.packed_hh && !args.prepacked) {
    recurrent.pack(share(ceil_div(state, Columns::kUnits), slots));
    if (args.packed_hr) projection.pack(share(ceil_div(hidden, Columns::kUnits), slots));
    barrier.wait(part.owned());
  }

  Product::begin();
  CellType cell(args, slots.begin);
  const S* grad_output = static_cast<const S*>(args.grad_output);
  const S* grad_h_n = static_cast<const S*>(args.grad_h_n);
  S* grad_h0 = static_cast<S*>(args.grad_h0);
  S* grad_projected = static_cast<S*>(args.grad_projected);

  // Turns the product (what reaches the state of rows after step s by way of step s + 1; zero for
  // rows that end with s) into the whole gradient of that state, and sends it on: to h0 for rows
  // that began after s, else to the cell or projection.
  const auto finish = [&](int64_t s, int64_t active, int64_t block, int64_t row, int64_t count,
                          C* product, bool continuing) {
    const int64_t first = block * Columns::kUnits;
    for (int64_t r = 0; r < count; ++r)
      for (int v = 0; v < kColumnVectors; ++v) {
        const int64_t unit = first + v * kLanes;
        if (unit >= state) continue;
        const int n = static_cast<int>(smaller(kLanes, state - unit));
        C* at = product + (r * kColumnVectors + v) * kLanes;
        V grad = load(at);
        if (CellType::kCarriesState && continuing) grad += load_first(cell.carry(row + r, unit), n);
        if (row + r >= active) {
          store_first(grad_h0 + (row + r) * state + unit, grad, n);
          continue;
        }
        if (!continuing && grad_h_n) grad += load_first(grad_h_n + (row + r) * state + unit, n);
        if (grad_output)
          grad += load_first(grad_output + (steps.offset[s] + row + r) * state + unit, n);
        if (grad_projected)
          store_first(grad_projected + (steps.offset[s] + row + r) * state + unit, grad, n);
        else
          store(at, grad);
      }
    const int64_t inside = smaller(count, active - row);
    if (!grad_projected && inside > 0) cell.rows(s, first, row, inside, product, continuing);
  };

  // Iteration s takes the gradients of step s + 1's gates back through the recurrent weights and
  // then through step s's cell. The last iteration of all, -1, only finishes grad_h0.
  const int64_t last = args.first_step == 0 && grad_h0 ? -1 : args.first_step;
  for (int64_t s = args.end_step - 1; s >= last; --s) {
    const int64_t active = s >= 0 ? steps.active[s] : 0,
                  later = s + 1 < steps.count ? steps.active[s + 1] : 0;
    const bool backwards = s & 1;
    const Range continuing = intersect(part.rows, {0, grad_h0 ? later : smaller(later, active)});
    const Range ending = intersect(part.rows, {smaller(later, active), active});
    const auto prefetch_cell = [&](int64_t block, int64_t row, int64_t count) {
      if (!grad_projected)
        cell.prefetch_rows(s, block * Columns::kUnits, row, smaller(count, active - row));
    };
    if (s + 1 < steps.count) {
      const S* grads = cell.state_gate_gradients(steps.offset[s + 1]);
      const Rows<S> all{grads, grads, later, args.grad_gates_stride};
      const auto a = operand_rows<Product>(all, continuing, depth, scratch);
      recurrent.for_blocks(state_blocks, continuing, &a, backwards, prefetch_cell,
                           [&](int64_t block, int64_t row, int64_t count, C* product) {
                             finish(s, active, block, row, count, product, true);
                           });
    }
    recurrent.for_blocks(state_blocks, ending, nullptr, backwards, prefetch_cell,
                         [&](int64_t block, int64_t row, int64_t count, C* product) {
                           finish(s, active, block, row, count, product, false);
                         });
    if (grad_projected && s >= 0) {
      part.synchronize(barrier);
      const S* grads = grad_projected + steps.offset[s] * state;
      const Rows<S> all{grads, grads, active, state};
      const Range rows = intersect(part.rows, {0, active});
      const auto a = operand_rows<Product>(all, rows, state, scratch);
      projection.for_blocks(unit_blocks, rows, &a, backwards, kNothingToPrepare,
                            [&](int64_t block, int64_t row, int64_t count, C* product) {
                              for (int64_t r = row; r < row + count;) {
                                const int64_t end =
                                    r < later && later < row + count ? later : row + count;
                                cell.rows(s, block * Columns::kUnits, r, end - r,
                                          product + (r - row) * kColumnVectors * kLanes, r < later);
                                r = end;
                              }
                            });
    }
    if (s > last) part.synchronize(barrier);
  }
  Product::end();
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
