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

struct Interval {
  int64_t begin, end;
};

inline Interval share(int64_t total, Slots slots) {
  return {total * slots.begin / slots.total, total * slots.end / slots.total};
}

inline Interval intersect(Interval a, Interval b) {
  const int64_t begin = a.begin > b.begin ? a.begin : b.begin;
  const int64_t end = a.end < b.end ? a.end : b.end;
  return {begin, end < begin ? begin : end};
}

// What one callback works on: a range of blocks of columns and a range of rows of the batch.
struct Part {
  Slots slots;
  Interval rows;
  bool over_rows;

  Part(const Split& split, Slots owned, int64_t batch) : slots(owned), over_rows(split.over_rows) {
    rows = over_rows ? share(batch, owned) : Interval{0, batch};
  }
  Interval blocks(int64_t units, int64_t units_per_block) const {
    const int64_t count = ceil_div(units, units_per_block);
    return over_rows ? Interval{0, count} : share(count, slots);
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
                                             Interval range, int64_t depth, void* scratch) {
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

// The form of a matrix's blocks, and what the product does with blocks of this form. The cells,
// which differ in what they do with a product, share these functions and the loops around them.
template <class Product>
struct BlockForm {
  using S = typename Product::Storage;
  using C = typename Product::C;

  int gates, vectors;
  void (*pack_block)(const WeightView<S>& view, int64_t block, typename Product::Weight* to);
  void (*multiply)(const typename Product::Operand* a, int64_t a_stride, int64_t rows,
                   const WeightView<S>& view, const typename Product::Weight* packed, int64_t block,
                   int64_t next, C* out);

  int64_t units() const { return vectors / gates * Product::kLanes; }
};

template <class Product, int kGates, int kVectors>
constexpr BlockForm<Product> kBlockForm = {kGates, kVectors,
                                           Product::template pack_block<kGates, kVectors>,
                                           Product::template multiply<kGates, kVectors>};

template <class Product>
class Weights {
 public:
  using S = typename Product::Storage;
  using C = typename Product::C;

  Weights(const BlockForm<Product>& form, const WeightView<S>& view, void* packed)
      : form_(form), view_(view), packed_(static_cast<typename Product::Weight*>(packed)) {}

  int64_t units() const { return form_.units(); }

  void pack(Interval blocks) {
    const int64_t size = Product::block_size(view_.depth, form_.vectors);
    for (int64_t b = blocks.begin; b < blocks.end; ++b)
      form_.pack_block(view_, b, packed_ + b * size);
  }

  // Multiplies rows by each block and hands the product (rows x vectors) to body(block, first row,
  // rows, product). Without an operand the product is zero. The order of the blocks alternates from
  // step to step: weights that outgrow L2 are then met again from their end,
  // where it still holds them.
  // Before a product, prepare(block, first row, rows) may prefetch what body will need.
  template <class Prepare, class Body>
  void for_blocks(Interval blocks, Interval rows, const Rows<typename Product::Operand>* a,
                  bool backwards, const Prepare& prepare, const Body& body) const {
    constexpr int kMostVectors = larger(4, Product::kColumnVectors);
    alignas(64) C product[Product::kChunkRows * kMostVectors * Product::kLanes];
    for (int64_t i = blocks.begin; i < blocks.end; ++i) {
      const int64_t block = backwards ? blocks.begin + blocks.end - 1 - i : i;
      const int64_t next = i + 1 == blocks.end ? block : backwards ? block - 1 : block + 1;
      for (int64_t r = rows.begin; r < rows.end;) {
        const int64_t end = a ? a->run_end(r, rows.end) : rows.end;
        const int64_t height = chunk_rows(end - r);
        while (r < end) {
          const int64_t count = smaller(height, end - r);
          // Of chunks of one height the last begins early; what it repeats is not used.
          const int64_t early = Product::kEvenChunks ? height - count : 0;
          prepare(block, r, count);
          if (a)
            form_.multiply(a->row(r - early), a->stride, count + early, view_, packed_, block, next,
                           product);
          else
            std::memset(product, 0, (count + early) * form_.vectors * Product::kLanes * sizeof(C));
          body(block, r, count, product + early * form_.vectors * Product::kLanes);
          r += count;
        }
      }
    }
  }

 private:
  // The most rows at a time, of so many that follow one another.
  static int64_t chunk_rows(int64_t rows) {
    if (!Product::kEvenChunks) return Product::kChunkRows;
    return ceil_div(rows, ceil_div<int64_t>(rows, Product::kChunkRows));
  }

  BlockForm<Product> form_;
  WeightView<S> view_;
  typename Product::Weight* packed_;
};

// A cell as the forward loop sees it: see cell_kernels.h.
template <class Product>
struct ForwardCellOf {
  using S = typename Product::Storage;
  using C = typename Product::C;

  BlockForm<Product> form;  // of the recurrent weights
  void (*prefetch_rows)(const ForwardArgs& args, int64_t offset, int64_t first_unit, int64_t row,
                        int64_t count, S* out);
  void (*rows)(const ForwardArgs& args, int64_t offset, int64_t first_unit, int64_t row,
               int64_t count, const C* product, const Rows<S>& h_prev, S* out);
};

// And the backward loop.
template <class Product>
struct BackwardCellOf {
  using S = typename Product::Storage;
  using C = typename Product::C;

  int gates;
  bool carries_state;  // part of the state's gradient goes past the product, by args.carry
  int inputs_first;    // gates at the start of a row of grad_gates that did not see the state
  void (*prefetch_rows)(const BackwardArgs& args, int64_t s, int64_t first_unit, int64_t row,
                        int64_t count);
  void (*rows)(const BackwardArgs& args, int first_slot, int column_vectors, int64_t s,
               int64_t first_unit, int64_t row, int64_t count, const C* grad_h, bool continuing);
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

template <class Product>
void forward_loop(const ForwardCellOf<Product>& cell, const ForwardArgs& args, Slots slots,
                  Barrier& barrier) {
  using S = typename Product::Storage;
  using C = typename Product::C;
  constexpr int64_t kLanes = Product::kLanes;
  const Steps& steps = args.steps;
  const int64_t hidden = args.sizes.hidden, state = args.sizes.state;
  const Part part(args.split, slots, steps.batch);
  char* scratch = static_cast<char*>(args.operand) + slots.begin * args.operand_bytes;

  Weights<Product> recurrent(cell.form, transposed_view<S>(args.w_hh, hidden, state),
                             args.packed_hh);
  Weights<Product> from_input(cell.form, transposed_view<S>(args.w_ih, hidden, args.input_size),
                              nullptr);
  Weights<Product> projection(kBlockForm<Product, 1, Product::kColumnVectors>,
                              transposed_view<S>(args.w_hr, state, hidden), args.packed_hr);
  const int vectors = cell.form.vectors, unit_vectors = vectors / cell.form.gates;
  const int64_t units = recurrent.units();
  const Interval unit_blocks = part.blocks(hidden, units);
  const Interval state_blocks = part.blocks(state, projection.units());

  const bool pack_hh = args.packed_hh && !args.prepacked_hh,
             pack_hr = args.packed_hr && !args.prepacked_hr;
  if (pack_hh) recurrent.pack(share(ceil_div(hidden, units), slots));
  if (pack_hr) projection.pack(share(ceil_div(state, projection.units()), slots));
  if (pack_hh || pack_hr) barrier.wait(part.owned());

  Product::begin();
  S* output = static_cast<S*>(args.output);
  S* hidden_rows = static_cast<S*>(args.hidden);
  for (int64_t s = args.first_step; s < args.end_step; ++s) {
    const int64_t offset = steps.offset[s], gate_offset = offset - args.first_gate_row;
    const Interval rows = intersect(part.rows, {0, steps.active[s]});
    const bool backwards = s % 2;

    if (args.input) {
      const S* input = static_cast<const S*>(args.input) + offset * args.input_size;
      const Rows<S> all{input, input, steps.active[s], args.input_size};
      const auto a = operand_rows<Product>(all, rows, args.input_size, scratch);
      from_input.for_blocks(
          unit_blocks, rows, &a, backwards, kNothingToPrepare,
          [&](int64_t block, int64_t row, int64_t count, const C* product) {
            for (int64_t r = 0; r < count; ++r)
              for (int gate = 0; gate < cell.form.gates; ++gate)
                for (int v = 0; v < unit_vectors; ++v) {
                  const int64_t unit = block * units + v * kLanes;
                  if (unit >= hidden) continue;
                  S* to = static_cast<S*>(args.gates) +
                          (gate_offset + row + r) * args.gates_stride + gate * hidden + unit;
                  store_first(to, load(product + (r * vectors + gate * unit_vectors + v) * kLanes),
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
      cell.prefetch_rows(args, gate_offset, block * units, row, count, raw);
    };
    recurrent.for_blocks(unit_blocks, rows, &a, backwards, prefetch_cell,
                         [&](int64_t block, int64_t row, int64_t count, const C* product) {
                           cell.rows(args, gate_offset, block * units, row, count, product, h_prev,
                                     raw);
                         });

    if (hidden_rows) {
      part.synchronize(barrier);
      const Rows<S> all{raw, raw, steps.active[s], hidden};
      const auto b = operand_rows<Product>(all, rows, hidden, scratch);
      projection.for_blocks(state_blocks, rows, &b, backwards, kNothingToPrepare,
                            [&](int64_t block, int64_t row, int64_t count, const C* product) {
                              for (int64_t r = 0; r < count; ++r)
                                for (int v = 0; v < Product::kColumnVectors; ++v) {
                                  const int64_t unit = block * projection.units() + v * kLanes;
                                  if (unit >= state) continue;
                                  store_first(
                                      out + (row + r) * state + unit,
                                      load(product + (r * Product::kColumnVectors + v) * kLanes),
                                      static_cast<int>(smaller(kLanes, state - unit)));
                                }
                            });
    }
    if (s + 1 < args.end_step) part.synchronize(barrier);
  }
  Product::end();
}

template <class Product>
void backward_loop(const BackwardCellOf<Product>& cell, const BackwardArgs& args, Slots slots,
                   Barrier& barrier) {
  using S = typename Product::Storage;
  using C = typename Product::C;
  using V = Vec<C>;
  constexpr int64_t kLanes = Product::kLanes;
  const Steps& steps = args.steps;
  const int64_t hidden = args.sizes.hidden, state = args.sizes.state;
  // Of the recurrent product: gradients of the gates that saw the state.
  const int64_t depth = cell.gates * hidden;
  const Part part(args.split, slots, steps.batch);
  char* scratch = static_cast<char*>(args.operand) + slots.begin * args.operand_bytes;

  constexpr int kColumnVectors = Product::kColumnVectors;
  constexpr int64_t kUnits = kColumnVectors * kLanes;
  Weights<Product> recurrent(kBlockForm<Product, 1, kColumnVectors>,
                             plain_view<S>(args.w_hh, depth, state), args.packed_hh);
  Weights<Product> projection(kBlockForm<Product, 1, kColumnVectors>,
                              plain_view<S>(args.w_hr, state, hidden), args.packed_hr);
  const Interval state_blocks = part.blocks(state, kUnits),
                 unit_blocks = part.blocks(hidden, kUnits);

  if (args.packed_hh && !args.prepacked) {
    recurrent.pack(share(ceil_div(state, kUnits), slots));
    if (args.packed_hr) projection.pack(share(ceil_div(hidden, kUnits), slots));
    barrier.wait(part.owned());
  }

  Product::begin();
  const auto cell_rows = [&](int64_t s, int64_t first_unit, int64_t row, int64_t count,
                             const C* grad_h, bool continuing) {
    cell.rows(args, slots.begin, kColumnVectors, s, first_unit, row, count, grad_h, continuing);
  };
  const C* carry = static_cast<const C*>(args.carry);
  const S* grad_output = static_cast<const S*>(args.grad_output);
  const S* grad_h_n = static_cast<const S*>(args.grad_h_n);
  S* grad_h0 = static_cast<S*>(args.grad_h0);
  S* grad_projected = static_cast<S*>(args.grad_projected);

  // Turns the product (what reaches the state of rows after step s by way of step s + 1; zero for
  // rows that end with s) into the whole gradient of that state, and sends it on: to h0 for rows
  // that began after s, else to the cell or projection.
  const auto finish = [&](int64_t s, int64_t active, int64_t block, int64_t row, int64_t count,
                          C* product, bool continuing) {
    const int64_t first = block * kUnits;
    for (int64_t r = 0; r < count; ++r)
      for (int v = 0; v < kColumnVectors; ++v) {
        const int64_t unit = first + v * kLanes;
        if (unit >= state) continue;
        const int n = static_cast<int>(smaller(kLanes, state - unit));
        C* at = product + (r * kColumnVectors + v) * kLanes;
        V grad = load(at);
        if (cell.carries_state && continuing)
          grad += load_first(carry + (row + r) * hidden + unit, n);
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
    if (!grad_projected && inside > 0) cell_rows(s, first, row, inside, product, continuing);
  };

  // Iteration s takes the gradients of step s + 1's gates back through the recurrent weights and
  // then through step s's cell. The last iteration of all, -1, only finishes grad_h0.
  const int64_t last = args.first_step == 0 && grad_h0 ? -1 : args.first_step;
  for (int64_t s = args.end_step - 1; s >= last; --s) {
    const int64_t active = s >= 0 ? steps.active[s] : 0,
                  later = s + 1 < steps.count ? steps.active[s + 1] : 0;
    const bool backwards = s & 1;
    const Interval continuing = intersect(part.rows, {0, grad_h0 ? later : smaller(later, active)});
    const Interval ending = intersect(part.rows, {smaller(later, active), active});
    const auto prefetch_cell = [&](int64_t block, int64_t row, int64_t count) {
      if (!grad_projected)
        cell.prefetch_rows(args, s, block * kUnits, row, smaller(count, active - row));
    };
    if (s + 1 < steps.count) {
      const S* grads = static_cast<const S*>(args.grad_gates) +
                       (steps.offset[s + 1] - args.first_grad_row) * args.grad_gates_stride +
                       cell.inputs_first * hidden;
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
      const Interval rows = intersect(part.rows, {0, active});
      const auto a = operand_rows<Product>(all, rows, state, scratch);
      projection.for_blocks(unit_blocks, rows, &a, backwards, kNothingToPrepare,
                            [&](int64_t block, int64_t row, int64_t count, C* product) {
                              for (int64_t r = row; r < row + count;) {
                                const int64_t end =
                                    r < later && later < row + count ? later : row + count;
                                cell_rows(s, block * kUnits, r, end - r,
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
