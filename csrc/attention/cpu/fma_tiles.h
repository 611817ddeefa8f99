// Products of one tile by FMA in the compute type: float and double on every level, bfloat16
// (widened) where there is nothing better.
//
// All products of attention are brought into one form, left x right, where the right operand and
// the result have rows of kQueries queries or of features, contiguous and vectorised, and elements
// of the left one are broadcast:
//
//   scores        S^T (keys, queries)      = K (keys, dim)            x Q^T (dim, queries)
//   output        O^T (features, queries) += V^T (features, keys)     x P^T (keys, queries)
//   grad P        dP^T (keys, queries)     = V (keys, features)       x dO^T (features, queries)
//   grad query    dQ^T (dim, queries)     += K^T (dim, keys)          x dS^T (keys, queries)
//   grad value    dV (keys, features)     += P^T (keys, queries)      x dO (queries, features)
//   grad key      dK (keys, dim)          += dS^T (keys, queries)     x Q (queries, dim)
//
// So keys and values are read where they lie (transposed only by how they are indexed), softmax
// runs down the columns without any horizontal sum, and only Q^T and dO^T are rearranged.
#pragma once

#include "attention/cpu/exp2.h"
#include "attention/cpu/tile_rows.h"
#include "common/blocks.h"

namespace seqkern {
namespace SEQKERN_ISA {

// How many rows of a product stay in registers beside `vectors` columns of accumulators.
constexpr int product_rows(int vectors) {
  const int rows = (kVectorRegisters - vectors - 2) / vectors;
  return rows >= 16 ? 16 : rows >= 12 ? 12 : rows >= 8 ? 8 : rows >= 6 ? 6 : rows >= 4 ? 4 : 2;
}

// The widest column panel.
constexpr int kPanel = kVectorRegisters == 32 ? 4 : 2;

template <int kRows, int kVectors, bool kTransposed, class C>
inline void product_block(const C* left, int64_t left_stride, int64_t depth, const C* right,
                          int64_t right_stride, C* out, int64_t out_stride, bool accumulate) {
  using V = Vec<C>;
  V sums[kRows][kVectors];
#pragma GCC unroll 64
  for (int i = 0; i < kRows * kVectors; ++i) (&sums[0][0])[i] = V(C(0));
  for (int64_t k = 0; k < depth; ++k) {
    V columns[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) columns[v] = load(right + k * right_stride + v * V::kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const V value(kTransposed ? left[k * left_stride + r] : left[r * left_stride + k]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sums[r][v] += value * columns[v];
    }
  }
  // The tile's sum by itself, then one addition: of thousands of keys, one by one, each would round
  // at the size of all before it.
  if (accumulate) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sums[r][v] += load(out + r * out_stride + v * V::kLanes);
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) store(out + r * out_stride + v * V::kLanes, sums[r][v]);
}

template <int kRows, int kVectors, bool kTransposed, class C>
inline int64_t product_rows_from(int64_t row, int64_t rows, const C* left, int64_t left_stride,
                                 int64_t depth, const C* right, int64_t right_stride, C* out,
                                 int64_t out_stride, bool accumulate) {
  for (; row + kRows <= rows; row += kRows)
    product_block<kRows, kVectors, kTransposed>(left + row * (kTransposed ? 1 : left_stride),
                                                left_stride, depth, right, right_stride,
                                                out + row * out_stride, out_stride, accumulate);
  return row;
}

template <int kRows>
struct Height {
  static constexpr int value = kRows;
};

// `kVectors` columns of vectors, all rows.
template <int kVectors, bool kTransposed, class C>
inline void product_panel(int64_t rows, const C* left, int64_t left_stride, int64_t depth,
                          const C* right, int64_t right_stride, C* out, int64_t out_stride,
                          bool accumulate) {
  constexpr int kMost = product_rows(kVectors);
  int64_t row = 0;
  const auto all = [&](auto height) __attribute__((always_inline)) {
    row = product_rows_from<decltype(height)::value, kVectors, kTransposed>(
        row, rows, left, left_stride, depth, right, right_stride, out, out_stride, accumulate);
  };
  all(Height<kMost>{});
  if constexpr (kMost > 12) all(Height<8>{});  // four rows of one vector wait for each sum
  if constexpr (kMost > 4) all(Height<4>{});
  if constexpr (kMost > 2) all(Height<2>{});
  all(Height<1>{});
}

// out (rows, vectors) = or += left (rows, depth) x right (depth, vectors). Transposed: left's
// element (r, k) lies at k * left_stride + r instead of r * left_stride + k.
template <bool kTransposed, class C>
inline void product_inline(int64_t rows, const C* left, int64_t left_stride, int64_t depth,
                           const C* right, int64_t right_stride, int vectors, C* out,
                           int64_t out_stride, bool accumulate) {
  constexpr int kLanes = Vec<C>::kLanes;
  while (vectors > 0) {
    const int wide = smaller(vectors, kPanel);
    switch (wide) {
      case 1:
        product_panel<1, kTransposed>(rows, left, left_stride, depth, right, right_stride, out,
                                      out_stride, accumulate);
        break;
      case 2:
        product_panel<2, kTransposed>(rows, left, left_stride, depth, right, right_stride, out,
                                      out_stride, accumulate);
        break;
      case 3:
        if constexpr (kPanel > 2)
          product_panel<3, kTransposed>(rows, left, left_stride, depth, right, right_stride, out,
                                        out_stride, accumulate);
        break;
      default:
        if constexpr (kPanel > 2)
          product_panel<4, kTransposed>(rows, left, left_stride, depth, right, right_stride, out,
                                        out_stride, accumulate);
    }
    vectors -= wide;
    right += wide * kLanes;
    out += wide * kLanes;
  }
}

// Out of line, so that all products of a compute type share the code.
template <bool kTransposed, class C>
__attribute__((noinline)) void product(int64_t rows, const C* left, int64_t left_stride,
                                       int64_t depth, const C* right, int64_t right_stride,
                                       int vectors, C* out, int64_t out_stride, bool accumulate) {
  product_inline<kTransposed>(rows, left, left_stride, depth, right, right_stride, vectors, out,
                              out_stride, accumulate);
}

// The tiles' operands for storage S. Where S is the compute type, keys and values are read in
// place.
template <class S>
struct FmaTiles {
  using Storage = S;
  using C = compute_t<S>;
  using V = Vec<C>;
  using Probability = C;  // P^T and dS^T as operands: (keys, kQueries)
  static constexpr bool kInPlace = __is_same(S, C);
  static constexpr int kTileKeys = 96;          // at most, in a tile of the forward
  static constexpr int kGradientKeys = 96;      // and of the backward
  static constexpr int kChunkKeys = 48;         // of the forward's scores
  static constexpr bool kChunksInPlace = true;  // a chunk's probabilities take its scores' place
  static constexpr int kKeyStep = 1;            // a tile begins at a multiple of it
  static constexpr int kRowStep = 2;  // rows of a tile of scores are padded to a multiple of it
  static constexpr int kLanes = V::kLanes;

  static V exp2(V x) { return exp2_(x); }

  static void begin() {}
  static void end() {}

  // Keys or values as a left operand: (keys, depth) and, for the same data, (depth, keys).
  struct Left {
    const C* data;
    int64_t stride;
  };
  using Transposed = Left;

  static Left in_place(const S* rows, int64_t stride) {
    if constexpr (kInPlace) return {rows, stride};
    return {};
  }
  static int64_t left_bytes(int64_t rows, int64_t depth) { return rows * depth * sizeof(C); }
  static int64_t transposed_bytes(int64_t rows, int64_t depth) { return left_bytes(rows, depth); }
  static Left left(const void* copy, int64_t, int64_t depth) {
    return {static_cast<const C*>(copy), depth};
  }
  static Transposed transposed(const void* copy, int64_t rows, int64_t depth) {
    return left(copy, rows, depth);
  }

  // Copies rows [begin, end), which start at `rows`.
  static void fill_left(const S* rows, int64_t stride, int64_t begin, int64_t end, int64_t depth,
                        void* copy) {
    C* to = static_cast<C*>(copy) + begin * depth;
    for (int64_t r = begin; r < end; ++r, rows += stride, to += depth)
      for (int64_t k = 0; k < depth; ++k) to[k] = widen(rows[k]);
  }
  // The same; elements that are not finite become 0.
  static void fill_transposed(const S* rows, int64_t stride, int64_t begin, int64_t end,
                              int64_t depth, bool finite_only, void* copy) {
    fill_left(rows, stride, begin, end, depth, copy);
    if (!finite_only) return;
    C* to = static_cast<C*>(copy);
    for (int64_t i = begin * depth; i < end * depth; ++i)
      if (!(to[i] - to[i] == C(0))) to[i] = C(0);
  }

  // Query rows as the right operand (depth, kQueries): transposed, and zero from `rows` on to the
  // end of a vector.
  static int64_t right_bytes(int64_t depth) { return depth * kQueries * sizeof(C); }
  static void fill_right(const S* from, int64_t stride, int rows, int64_t depth, void* right) {
    C* to = static_cast<C*>(right);
    zero_vectors(to, depth, rows / kLanes, static_cast<int>(ceil_div(rows, kLanes)));
    int row = 0;
    if constexpr (kInPlace && sizeof(C) == 4) {
      const int64_t whole = depth / 4 * 4;
      row = rows / 4 * 4;
      transpose(from, stride, row, whole, to, kQueries);
      for (int64_t k = whole; k < depth; ++k)
        for (int r = 0; r < row; ++r) to[k * kQueries + r] = from[r * stride + k];
    }
    for (; row < rows; ++row)
      for (int64_t k = 0; k < depth; ++k) to[k * kQueries + row] = widen(from[row * stride + k]);
  }

  // out (keys, kQueries) = left rows [first, first + keys) x right, for the columns from the vector
  // `begin` to the vector `end`.
  static void scores(Left left, int64_t first, int keys, int64_t depth, const void* right,
                     int begin, int end, C* out) {
    const int column = begin * kLanes;
    product<false>(keys, left.data + first * left.stride, left.stride, depth,
                   static_cast<const C*>(right) + column, kQueries, end - begin, out + column,
                   kQueries, false);
  }

  // Probabilities stay where the scores were.
  static int64_t probability_bytes() { return 0; }
  static C* probabilities(C* scores, void*) { return scores; }
  static void store_pair(C* to, int row, int column, V first, V second) {
    store(to + row * kQueries + column, first);
    store(to + (row + 1) * kQueries + column, second);
  }
  static C probability(const C* p, int key, int query) { return p[key * kQueries + query]; }

  // out (features, kQueries) = or += left^T x p
  static void accumulate(Transposed left, int64_t first, int keys, int64_t features, const C* p,
                         int vectors, C* out, bool add) {
    product<true>(features, left.data + first * left.stride, left.stride, keys, p, kQueries,
                  vectors, out, kQueries, add);
  }
  static void store_rows(const C* columns, const C* scale, int queries, int64_t features, C* rows,
                         S* to, int64_t stride) {
    rows_from_columns(columns, scale, queries, features, rows, to, stride);
  }

  // ---- the backward's ----

  static constexpr int kQueryStep = 1;  // queries of P and dS are padded to a multiple of it

  // Query rows as the right operand (queries, features), where they lie or as a copy whose rows end
  // at a whole vector.
  struct Right {
    const C* data;
    int64_t stride;
  };
  static int64_t padded_features(int64_t depth) { return round_up(depth, kLanes); }
  static bool rows_in_place(int64_t depth) { return kInPlace && depth % kLanes == 0; }
  static int64_t rows_bytes(int64_t depth) {
    return rows_in_place(depth) ? 0 : kQueries * padded_features(depth) * sizeof(C);
  }
  static Right rows(const S* from, int64_t stride, int64_t depth, const void* copy) {
    if constexpr (kInPlace) {
      if (rows_in_place(depth)) return {from, stride};
    }
    return {static_cast<const C*>(copy), padded_features(depth)};
  }
  static void fill_rows(const S* from, int64_t stride, int rows, int64_t depth, void* copy) {
    if (rows_in_place(depth)) return;
    const int64_t padded = padded_features(depth);
    C* to = static_cast<C*>(copy);
    for (int r = 0; r < rows; ++r, from += stride, to += padded) {
      for (int64_t k = 0; k < depth; ++k) to[k] = widen(from[k]);
      for (int64_t k = depth; k < padded; ++k) to[k] = C(0);
    }
  }

  // P^T and dS^T as left operands (keys, queries), and dS^T as a right one: the tiles themselves.
  struct Gradients {
    C *p, *ds;
  };
  static int64_t gradient_bytes() { return 0; }
  static Gradients gradients(C* scores, C* grad, void*) { return {scores, grad}; }
  static void store_p(const Gradients& g, int row, int column, V first, V second) {
    store_pair(g.p, row, column, first, second);
  }
  static void store_ds(const Gradients& g, int row, int column, V first, V second) {
    store_pair(g.ds, row, column, first, second);
  }
  // What accumulate() and probability() take for dS.
  static const C* ds_probability(const Gradients& g) { return g.ds; }

  // out (keys, features) += P^T or dS^T x right, rows of out `stride` apart
  // out (keys, features) = or += P^T x right
  static void multiply_p(const Gradients& g, int keys, int queries, Right right, int64_t depth,
                         C* out, int64_t stride, bool add) {
    multiply(g.p, keys, queries, right, depth, out, stride, add);
  }
  static void multiply_ds(const Gradients& g, int keys, int queries, Right right, int64_t depth,
                          C* out, int64_t stride, bool add) {
    multiply(g.ds, keys, queries, right, depth, out, stride, add);
  }

 private:
  static void multiply(const C* left, int keys, int queries, Right right, int64_t depth, C* out,
                       int64_t stride, bool add) {
    product<false>(keys, left, kQueries, queries, right.data, right.stride,
                   static_cast<int>(padded_features(depth) / kLanes), out, stride, add);
  }
};

}  // namespace SEQKERN_ISA
}  // namespace seqkern
