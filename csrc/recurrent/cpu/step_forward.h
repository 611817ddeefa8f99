// One step of a cell for a few rows, straight from PyTorch's weight layout: both products, the cell
// and its state in one pass over the weights.
//
// A block is one vector of hidden units. Its pre-activations come in one of two ways:
// - dot products along the weights' rows, for the fewest rows, where reading the weights is all;
// - with rows of the batch side by side in a vector (the operand, transposed once), so that every
//   weight is broadcast and nothing has to be summed across lanes.
#pragma once

#include "recurrent/cpu/step_cells.h"

namespace seqkern {
namespace SEQKERN_ISA {

// What the products depend on of a cell.
template <class S, int kGates_, int kProducts_>
struct StepShape {
  using Storage = S;
  using C = compute_t<S>;
  using V = Vec<C>;
  static constexpr int kGates = kGates_, kProducts = kProducts_;
  // Takes `count` rows of kProducts vectors of pre-activations: see the cells.
  using RowsFunction = void (*)(const StepForwardArgs& args, int64_t unit, int n, int64_t row,
                                int64_t count, const C* pre);
};

// ---- the cells ----
// rows() takes `count` rows of kProducts vectors of pre-activations (of the units from `unit` on,
// `n` of them) without biases; past `n` there may be anything, and arithmetic with that could take
// a hundred times as long (denormals), so it is not read. kProducts exceeds kGates where the last
// gate keeps the products of the input and of the state apart.

template <class S>
struct LstmStep : StepShape<S, 4, 4> {
  using Shape = StepShape<S, 4, 4>;
  using typename Shape::C;
  using typename Shape::V;

  static void rows(const StepForwardArgs& args, int64_t unit, int n, int64_t row, int64_t count,
                   const C* pre) {
    const int64_t hidden = args.sizes.hidden;
    V bias[4];
    for (int k = 0; k < 4; ++k)
      bias[k] = load_or_zero<S>(args.b_ih, k * hidden + unit, n) +
                load_or_zero<S>(args.b_hh, k * hidden + unit, n);
    for (int64_t r = row; r < row + count; ++r, pre += 4 * V::kLanes) {
      V gate[4];
      for (int k = 0; k < 4; ++k) gate[k] = load_first(pre + k * V::kLanes, n) + bias[k];
      const int64_t at = r * hidden + unit;
      V c = load_or_zero<S>(args.c0, at, n);
      const V h = lstm_cell(gate[0], gate[1], gate[2], gate[3], c);
      store_first(static_cast<S*>(args.c) + at, c, n);
      store_first(static_cast<S*>(args.h) + at, h, n);
      if (args.gates)
        for (int k = 0; k < 4; ++k)
          store_first(static_cast<S*>(args.gates) + (4 * r + k) * hidden + unit, gate[k], n);
    }
  }
};

template <class S>
struct GruStep : StepShape<S, 3, 4> {
  using Shape = StepShape<S, 3, 4>;
  using typename Shape::C;
  using typename Shape::V;

  static void rows(const StepForwardArgs& args, int64_t unit, int n, int64_t row, int64_t count,
                   const C* pre) {
    const int64_t hidden = args.sizes.hidden;
    V bias[4];
    for (int k = 0; k < 2; ++k)
      bias[k] = load_or_zero<S>(args.b_ih, k * hidden + unit, n) +
                load_or_zero<S>(args.b_hh, k * hidden + unit, n);
    bias[2] = load_or_zero<S>(args.b_ih, 2 * hidden + unit, n);
    bias[3] = load_or_zero<S>(args.b_hh, 2 * hidden + unit, n);
    for (int64_t i = row; i < row + count; ++i, pre += 4 * V::kLanes) {
      V gate[4];  // r, z, n and q
      for (int k = 0; k < 4; ++k) gate[k] = load_first(pre + k * V::kLanes, n) + bias[k];
      const int64_t at = i * hidden + unit;
      const V h = gru_cell(gate[0], gate[1], gate[2], gate[3], load_or_zero<S>(args.h0, at, n));
      store_first(static_cast<S*>(args.h) + at, h, n);
      if (args.gates)
        for (int k = 0; k < 4; ++k)
          store_first(static_cast<S*>(args.gates) + (4 * i + k) * hidden + unit, gate[k], n);
    }
  }
};

template <class S, bool kRelu>
struct RnnStep : StepShape<S, 1, 1> {
  using Shape = StepShape<S, 1, 1>;
  using typename Shape::C;
  using typename Shape::V;

  static void rows(const StepForwardArgs& args, int64_t unit, int n, int64_t row, int64_t count,
                   const C* pre) {
    const V bias = load_or_zero<S>(args.b_ih, unit, n) + load_or_zero<S>(args.b_hh, unit, n);
    for (int64_t r = row; r < row + count; ++r, pre += V::kLanes)
      store_first(static_cast<S*>(args.h) + r * args.sizes.hidden + unit,
                  rnn_cell<kRelu>(load_first(pre, n) + bias), n);
  }
};

// ---- both products ----

// One of the two products of a step: of the input or of the state.
template <class S>
struct StepPart {
  const S *a, *w;
  int64_t a_stride, depth;
};

// Runs body(part, whether it is the first) for both parts by the same code: the compiler, were it
// to see how often the loop goes around, would write it out, and the tiles are most of this file's
// code.
template <class S, class Body>
__attribute__((always_inline)) inline void for_parts(const StepPart<S> (&parts)[2],
                                                     const Body& body) {
  const StepPart<S>* part = parts;
  const StepPart<S>* last = parts + 1;
  asm("" : "+r"(last));
  for (;; ++part) {
    asm("" : "+r"(part));
    body(*part, part != last);
    if (part == last) break;
  }
}

// Cuts a block's units [unit, unit + n) into tiles of kUnits, at most a block: calls tile(place),
// and one(place) for single units. The last tile begins early where that makes it whole, because a
// tile of few sums waits for each of them: so place may be negative, by less than kUnits, where the
// units before are there. What such a tile writes of them is not used: it goes to the places before
// the block's, which are those past the n of what lies before it.
template <int kUnits, class Tile, class One>
__attribute__((always_inline)) inline void for_units(int64_t unit, int n, const Tile& tile,
                                                     const One& one) {
  int place = 0;
  for (; place + kUnits <= n; place += kUnits) tile(place);
  if (place == n) return;
  if (unit + n >= kUnits) return tile(n - kUnits);
  for (; place < n; ++place) one(place);
}

// ---- dot products ----

constexpr int kDotSums = kVectorRegisters == 32 ? 16 : 8;  // as many as the registers hold

template <class Shape>
constexpr int kDotRows = Shape::kGates == 1       ? 4
                         : kVectorRegisters == 32 ? 4
                                                  : 2;

template <int kRows, int kGates, int kUnits, class S>
__attribute__((always_inline)) inline void add_dots(
    Vec<compute_t<S>> (&sums)[kRows][kGates][kUnits], const S* a, int64_t a_stride, int64_t depth,
    const S* w, int64_t gate_stride) {
  using V = Vec<compute_t<S>>;
  const auto accumulate = [&](int64_t k, int n) __attribute__((always_inline)) {
    V values[kRows];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) values[r] = load_first(a + r * a_stride + k, n);
#pragma GCC unroll 4
    for (int g = 0; g < kGates; ++g)
#pragma GCC unroll 16
      for (int u = 0; u < kUnits; ++u) {
        const V weight = load_first(w + g * gate_stride + u * depth + k, n);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) sums[r][g][u] += values[r] * weight;
      }
  };
  int64_t k = 0;
  for (; k + V::kLanes <= depth; k += V::kLanes) accumulate(k, V::kLanes);
  if (k < depth) accumulate(k, static_cast<int>(depth - k));
}

// The pre-activations of kRows rows and kUnits units, to pre[row][product][place + unit].
template <class Shape, int kRows, int kUnits>
void dot_tile(const StepForwardArgs& args, int64_t row, int64_t unit, int place,
              typename Shape::C* pre) {
  using S = typename Shape::Storage;
  using V = typename Shape::V;
  constexpr int kGates = Shape::kGates, kProducts = Shape::kProducts;
  const int64_t inputs = args.sizes.inputs, hidden = args.sizes.hidden;
  V sums[kRows][kGates][kUnits];
  const auto clear = [&](int first_gate) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int g = first_gate; g < kGates; ++g)
#pragma GCC unroll 16
        for (int u = 0; u < kUnits; ++u) sums[r][g][u] = V(typename Shape::C(0));
  };
  const auto keep = [&](int first_gate, int end_gate, int product) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int g = first_gate; g < end_gate; ++g)
#pragma GCC unroll 16
        for (int u = 0; u < kUnits; ++u)
          pre[(r * kProducts + product + g - first_gate) * V::kLanes + place + u] =
              sum(sums[r][g][u]);
  };
  clear(0);
  // Zeros stand in the operand where there is no state.
  const S* h0 = static_cast<const S*>(args.h0 ? args.h0 : args.operand);
  const int64_t h0_stride = args.h0 ? hidden : 0;
  const StepPart<S> parts[2] = {
      {static_cast<const S*>(args.input) + row * inputs,
       static_cast<const S*>(args.w_ih) + unit * inputs, inputs, inputs},
      {h0 + row * h0_stride, static_cast<const S*>(args.w_hh) + unit * hidden, h0_stride, hidden}};
  constexpr bool kApart = kProducts > kGates;
  for_parts(parts, [&](const StepPart<S>& part, bool first) __attribute__((always_inline)) {
    add_dots<kRows, kGates, kUnits, S>(sums, part.a, part.a_stride, part.depth, part.w,
                                       hidden * part.depth);
    if (kApart && first) {
      keep(kGates - 1, kGates, kGates - 1);
      clear(kGates - 1);
    }
  });
  keep(0, kGates - kApart, 0);
  if constexpr (kApart) keep(kGates - 1, kGates, kGates);
}

// To pre[row][product][unit], units [unit, unit + n).
template <class Shape, int kRows = kDotRows<Shape>>
void dot_rows(const StepForwardArgs& args, int64_t count, int64_t row, int64_t unit, int n,
              typename Shape::C* pre) {
  if (count != kRows) {
    if constexpr (kRows > 1) dot_rows<Shape, kRows - 1>(args, count, row, unit, n, pre);
    return;
  }
  constexpr int kFit = kDotSums / (kRows * Shape::kGates);
  constexpr int kUnits = smaller(Shape::V::kLanes, kFit >= 16  ? 16
                                                   : kFit >= 8 ? 8
                                                   : kFit >= 4 ? 4
                                                   : kFit >= 2 ? 2
                                                               : 1);
  for_units<kUnits>(
      unit, n,
      [&](int place) { dot_tile<Shape, kRows, kUnits>(args, row, unit + place, place, pre); },
      [&](int place) { dot_tile<Shape, kRows, 1>(args, row, unit + place, place, pre); });
}

// ---- rows of the batch side by side ----

// How many rows are worth a whole vector of them.
template <class Shape>
constexpr int64_t kFewestSideBySide = Shape::V::kLanes / 2 + 1;

// The slots' share of the depth of rows [row, row + count) of a (rows x depth) to to[k][r]; r past
// the last row are zero. Without a all are zero.
template <class C>
void side_by_side(const C* a, int64_t row, int64_t count, int64_t depth, C* to, int64_t width,
                  Slots slots) {
  const int64_t quads = ceil_div(depth, 4), begin = 4 * share_begin(quads, slots),
                end = smaller(4 * share_end(quads, slots), depth);
  if (!a || count < width) std::memset(to + begin * width, 0, (end - begin) * width * sizeof(C));
  if (!a) return;
  a += row * depth;
  int64_t first = 0;
  if constexpr (sizeof(C) == 4)
    for (; first + 4 <= count; first += 4) {
      int64_t k = begin;
      for (; k + 4 <= end; k += 4)
        transpose_4x4(a + first * depth + k, depth, to + k * width + first, width);
      for (; k < end; ++k)
        for (int64_t r = first; r < first + 4; ++r) to[k * width + r] = a[r * depth + k];
    }
  for (; first < count; ++first)
    for (int64_t k = begin; k < end; ++k) to[k * width + first] = a[first * depth + k];
}

template <int kGates, int kUnits, int kWide, class C>
__attribute__((always_inline)) inline void add_products(Vec<C> (&sums)[kGates][kUnits][kWide],
                                                        const C* a, int64_t depth, const C* w,
                                                        int64_t gate_stride) {
  using V = Vec<C>;
  // One pointer a gate; the units' rows are at multiples of depth from it.
  const C* gate[kGates];
#pragma GCC unroll 4
  for (int g = 0; g < kGates; ++g) gate[g] = w + g * gate_stride;
  const auto step = [&](int64_t k) __attribute__((always_inline)) {
    V values[kWide];
#pragma GCC unroll 2
    for (int v = 0; v < kWide; ++v) values[v] = load(a + (k * kWide + v) * V::kLanes);
#pragma GCC unroll 4
    for (int g = 0; g < kGates; ++g) {
#pragma GCC unroll 16
      for (int u = 0; u < kUnits; ++u) {
        const V weight(gate[g][u * depth]);
#pragma GCC unroll 2
        for (int v = 0; v < kWide; ++v) sums[g][u][v] += values[v] * weight;
      }
      ++gate[g];
    }
  };
  // Meanwhile the rows of the units behind these come nearer, evenly spread.
  constexpr int64_t kPerLine = kLineBytes / sizeof(C);
  constexpr int64_t kLines = ceil_div(kUnits * kGates, kPerLine);  // of each gate in kGates steps
  const C* ahead = w + kUnits * depth;
  int64_t k = 0;
  for (; k + kGates <= depth; k += kGates, ahead += kLines * kPerLine)
#pragma GCC unroll 4
    for (int g = 0; g < kGates; ++g) {
#pragma GCC unroll 4
      for (int line = 0; line < kLines; ++line) prefetch(ahead + g * gate_stride + line * kPerLine);
      step(k + g);
    }
  for (; k < depth; ++k) step(k);
}

// The pre-activations of kUnits units for kWide vectors of rows, to out[product][place +
// unit][row].
template <class Shape, int kUnits, int kWide>
void side_by_side_tile(const StepForwardArgs& args, const typename Shape::C* operand, int64_t unit,
                       int place, typename Shape::C* out) {
  using C = typename Shape::C;
  using V = typename Shape::V;
  constexpr int kGates = Shape::kGates, kProducts = Shape::kProducts;
  constexpr int64_t kWidth = kWide * V::kLanes;
  const int64_t inputs = args.sizes.inputs, hidden = args.sizes.hidden;
  V sums[kGates][kUnits][kWide];
  const auto clear = [&](int first_gate) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int g = first_gate; g < kGates; ++g)
#pragma GCC unroll 16
      for (int u = 0; u < kUnits; ++u)
#pragma GCC unroll 2
        for (int v = 0; v < kWide; ++v) sums[g][u][v] = V(C(0));
  };
  const auto keep = [&](int first_gate, int end_gate, int product) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int g = first_gate; g < end_gate; ++g)
#pragma GCC unroll 16
      for (int u = 0; u < kUnits; ++u)
#pragma GCC unroll 2
        for (int v = 0; v < kWide; ++v)
          store(out + ((product + g - first_gate) * V::kLanes + place + u) * kWidth + v * V::kLanes,
                sums[g][u][v]);
  };
  clear(0);
  const StepPart<C> parts[2] = {
      {operand, static_cast<const C*>(args.w_ih) + unit * inputs, kWidth, inputs},
      {operand + inputs * kWidth, static_cast<const C*>(args.w_hh) + unit * hidden, kWidth,
       hidden}};
  constexpr bool kApart = kProducts > kGates;
  for_parts(parts, [&](const StepPart<C>& part, bool first) __attribute__((always_inline)) {
    add_products<kGates, kUnits, kWide, C>(sums, part.a, part.depth, part.w, hidden * part.depth);
    if (kApart && first) {
      keep(kGates - 1, kGates, kGates - 1);
      clear(kGates - 1);
    }
  });
  keep(0, kGates - kApart, 0);
  if constexpr (kApart) keep(kGates - 1, kGates, kGates);
}

// Rows [row, row + count), at most kWide vectors of them.
template <class Shape, int kWide>
void side_by_side_block(const StepForwardArgs& args, typename Shape::RowsFunction rows,
                        const typename Shape::C* operand, int64_t row, int64_t count, int64_t unit,
                        int n) {
  using C = typename Shape::C;
  constexpr int kLanes = Shape::V::kLanes, kProducts = Shape::kProducts;
  constexpr int kFit = (kVectorRegisters == 32 ? 24 : 12) / (Shape::kGates * kWide);
  constexpr int kUnits = smaller(Shape::V::kLanes, kFit >= 16  ? 16
                                                   : kFit >= 8 ? 8
                                                   : kFit >= 4 ? 4
                                                   : kFit >= 2 ? 2
                                                               : 1);
  constexpr int64_t kWidth = kWide * kLanes;
  alignas(64) C room[(kProducts + 1) * kLanes * kWidth];
  C* products = room + kLanes * kWidth;  // see for_units
  alignas(64) C pre[kWidth * kProducts * kLanes];
  const auto tile = [&](int place) {
    side_by_side_tile<Shape, kUnits, kWide>(args, operand, unit + place, place, products);
  };
  const auto one = [&](int place) {
    side_by_side_tile<Shape, 1, kWide>(args, operand, unit + place, place, products);
  };
  for_units<kUnits>(unit, n, tile, one);
  // products[p][u][r] to pre[r][p][u]
  constexpr int64_t kRow = kProducts * kLanes;
  for (int p = 0; p < kProducts; ++p) {
    const C* from = products + p * kLanes * kWidth;
    C* to = pre + p * kLanes;
    if constexpr (sizeof(C) == 4) {  // vectors of at least four
      for (int64_t r = 0; r < count; r += 4)
        for (int u = 0; u < n; u += 4)
          transpose_4x4(from + u * kWidth + r, kWidth, to + r * kRow + u, kRow);
    } else {
      for (int64_t r = 0; r < count; ++r)
        for (int u = 0; u < n; ++u) to[r * kRow + u] = from[u * kWidth + r];
    }
  }
  rows(args, unit, n, row, count, pre);
}

// ---- the kernel ----

template <class Shape>
constexpr bool kSideBySide = __is_same(typename Shape::Storage, typename Shape::C);

// Calls body(first row, rows, offset of their operand) for the rows that share an operand: two
// vectors of them, or one.
template <class Shape, class Body>
void for_operands(const StepSizes& sizes, const Body& body) {
  constexpr int64_t kLanes = Shape::V::kLanes;
  int64_t offset = 0;
  for (int64_t row = 0; row < sizes.batch;) {
    const int64_t left = sizes.batch - row;
    const int64_t width = left > kLanes ? 2 * kLanes : kLanes;
    body(row, smaller(left, width), width, offset);
    offset += (sizes.inputs + sizes.hidden) * width;
    row += width;
  }
}

// Past so many rows the products of a library are better: they read the weights less often.
template <class Shape>
bool step_forward_takes(StepSizes sizes) {
  if (!kSideBySide<Shape>)
    return sizes.batch <=
           (sizes.hidden >= 128 ? 32 : 4);  // short dot products cost more than packing
  if (kVectorRegisters < 32) return sizes.batch <= 64;
  if (Shape::kGates > 1) return sizes.batch <= 512;
  // A transposed row should serve enough units.
  return sizes.batch <= (sizes.inputs <= 3 * sizes.hidden ? 128 : 64);
}

template <class Shape>
int64_t step_forward_work(StepSizes sizes) {
  return sizes.batch * Shape::kGates * sizes.hidden * (sizes.inputs + sizes.hidden);
}

template <class Shape>
int64_t step_operand_bytes(StepSizes sizes) {
  int64_t elements = sizes.hidden;  // zeros for the missing state
  if (kSideBySide<Shape> && sizes.batch >= kFewestSideBySide<Shape>) {
    elements = 0;
    for_operands<Shape>(sizes, [&](int64_t, int64_t, int64_t width, int64_t) {
      elements += (sizes.inputs + sizes.hidden) * width;
    });
  }
  return elements * sizeof(typename Shape::C);
}

template <class Shape>
void step_forward_of(const StepForwardArgs& args, typename Shape::RowsFunction rows, Slots slots,
                     Barrier& barrier) {
  using C = typename Shape::C;
  constexpr int kLanes = Shape::V::kLanes;
  const StepSizes& sizes = args.sizes;
  const int64_t blocks = ceil_div(sizes.hidden, kLanes);
  const int64_t begin = share_begin(blocks, slots), end = share_end(blocks, slots);
  const auto units = [&](int64_t unit) {
    return static_cast<int>(smaller<int64_t>(kLanes, sizes.hidden - unit));
  };

  if constexpr (kSideBySide<Shape>) {
    if (sizes.batch >= kFewestSideBySide<Shape>) {
      C* operand = static_cast<C*>(args.operand);
      for_operands<Shape>(sizes, [&](int64_t row, int64_t count, int64_t width, int64_t offset) {
        C* to = operand + offset;
        side_by_side(static_cast<const C*>(args.input), row, count, sizes.inputs, to, width, slots);
        side_by_side(static_cast<const C*>(args.h0), row, count, sizes.hidden,
                     to + sizes.inputs * width, width, slots);
      });
      barrier.wait(slots.end - slots.begin);
      for (int64_t unit = begin * kLanes; unit < smaller(end * kLanes, sizes.hidden);
           unit += kLanes)
        for_operands<Shape>(sizes, [&](int64_t row, int64_t count, int64_t width, int64_t offset) {
          if (width == kLanes)
            side_by_side_block<Shape, 1>(args, rows, operand + offset, row, count, unit,
                                         units(unit));
          else
            side_by_side_block<Shape, 2>(args, rows, operand + offset, row, count, unit,
                                         units(unit));
        });
      return;
    }
  }
  if (!args.h0) {
    if (slots.begin == 0) std::memset(args.operand, 0, sizes.hidden * sizeof(C));
    barrier.wait(slots.end - slots.begin);
  }
  constexpr int64_t kRows = kDotRows<Shape>;
  alignas(64) C room[(kRows * Shape::kProducts + 1) * kLanes];
  C* pre = room + kLanes;  // see for_units
  for (int64_t unit = begin * kLanes; unit < smaller(end * kLanes, sizes.hidden); unit += kLanes)
    for (int64_t row = 0; row < sizes.batch; row += kRows) {
      const int64_t count = smaller(kRows, sizes.batch - row);
      dot_rows<Shape>(args, count, row, unit, units(unit), pre);
      rows(args, unit, units(unit), row, count, pre);
    }
}

template <class Cell>
void step_forward(const StepForwardArgs& args, Slots slots, Barrier& barrier) {
  step_forward_of<typename Cell::Shape>(args, Cell::rows, slots, barrier);
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
