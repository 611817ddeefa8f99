// How decoding's products are cut into tiles, whose sums stay in registers, and how what comes next
// is prefetched meanwhile.
#pragma once

#include "common/blocks.h"

namespace seqkern {
namespace SEQKERN_ISA {

// Rows of keys or values.
template <class S>
struct Stream {
  const S* rows;
  int64_t stride;

  Stream from(int64_t row) const { return {rows + row * stride, stride}; }
};

// Walks through rows in the order in which they lie, kStep numbers at a time, and prefetches them.
// In that order because processors then fetch further ahead on their own; between the tiles' reads,
// which jump from row to row, they do not.
template <class S, int kStep>
class RowsAhead {
 public:
  RowsAhead(Stream<S> rows, int64_t depth)
      : at_(rows.rows),
        steps_(ceil_div(depth, kStep)),
        skip_(rows.stride - steps_ * kStep),
        left_(steps_) {}

  __attribute__((always_inline)) void fetch() {
    prefetch(at_);
    at_ += kStep;
    if (--left_ == 0) {
      at_ += skip_;
      left_ = steps_;
    }
  }

 private:
  const S* at_;
  int64_t steps_, skip_, left_;
};

// Rows of a tile, and how many keys it has beside them.
constexpr int kDecodeRows = 4;
constexpr int decode_keys(int rows) {
  return kVectorRegisters == 32 || rows <= 2 ? 4 : 2;
}
// How many vectors of features a tile of the output is wide.
constexpr int decode_vectors(int rows) {
  const int most = kVectorRegisters == 32 ? 4 : 2;
  return rows <= 2 ? 2 * most : most;
}

// A tile of the output: its rows' weights, what they are multiplied by first, and the values.
template <class S, class C, class Weight>
struct ValueTile {
  const Weight* weights;
  const C* correction;
  Stream<S> values;
  int count;
  C* output;
  int64_t output_stride;
};

// The loops over tiles. Products has the tiles:
//   score_tile<kRows, kKeys>(first row, keys, ahead, scores)
//   value_tile<kRows, kSteps>(tile, first feature, ahead, whole): of kSteps * kStep features, or
//     where `whole::value` is false, of the value_dim % kStep last ones
template <class Products, class S, class Weight, int kChunk, int kStep>
class DecodeTiles {
 public:
  using C = compute_t<S>;
  using NumbersAhead = RowsAhead<S, kStep>;
  using Tile = ValueTile<S, C, Weight>;
  static constexpr int kParts = sizeof(C) / sizeof(S);  // vectors of C in a step

  // scores[r * kChunk + j] = query r . key j. `next` are the rows that will be read after these.
  void scores(Stream<S> keys, int count, Stream<S> next, C* scores) const {
    for (int64_t r = 0; r < rows_; r += kDecodeRows) {
      const int rows = static_cast<int>(smaller<int64_t>(kDecodeRows, rows_ - r));
      NumbersAhead ahead(r == 0 ? next : keys, dim_);
      score_rows<kDecodeRows>(rows, r, keys, count, ahead, scores + r * kChunk);
    }
  }

 protected:
  DecodeTiles(int64_t dim, int64_t value_dim, int64_t rows)
      : dim_(dim), value_dim_(value_dim), rows_(rows) {}

  // output[r] = output[r] * correction[r] + the sum over j of weight (r, j) * value j.
  void sum_values(Stream<S> values, int count, Stream<S> next, const Weight* weights,
                  const C* correction, C* output, int64_t stride) const {
    for (int64_t r = 0; r < rows_; r += kDecodeRows) {
      const int rows = static_cast<int>(smaller<int64_t>(kDecodeRows, rows_ - r));
      const Tile tile{weights + r * kChunk, correction + r, values, count,
                      output + r * stride,  stride};
      NumbersAhead ahead(r == 0 ? next : values, value_dim_);
      value_rows<kDecodeRows>(rows, tile, ahead);
    }
  }

  int64_t dim_, value_dim_, rows_;

 private:
  template <bool kValue>
  struct Whole {
    static constexpr bool value = kValue;
  };

  const Products& products() const { return static_cast<const Products&>(*this); }

  template <int kRows>
  void score_rows(int rows, int64_t first, Stream<S> keys, int count, NumbersAhead& ahead,
                  C* scores) const {
    if constexpr (kRows > 1)
      if (rows < kRows) return score_rows<kRows - 1>(rows, first, keys, count, ahead, scores);
    constexpr int kKeys = decode_keys(kRows);
    int j = 0;
    for (; j + kKeys <= count; j += kKeys)
      products().template score_tile<kRows, kKeys>(first, keys.from(j), ahead, scores + j);
    for (; j < count; ++j)
      products().template score_tile<kRows, 1>(first, keys.from(j), ahead, scores + j);
  }

  template <int kRows>
  void value_rows(int rows, const Tile& tile, NumbersAhead& ahead) const {
    if constexpr (kRows > 1)
      if (rows < kRows) return value_rows<kRows - 1>(rows, tile, ahead);
    int64_t f = 0;
    value_columns<kRows, decode_vectors(kRows) / kParts>(tile, f, ahead);
    if (f < value_dim_) products().template value_tile<kRows, 1>(tile, f, ahead, Whole<false>{});
  }

  // Tiles of kSteps steps while there are as many features, then narrower ones.
  template <int kRows, int kSteps>
  void value_columns(const Tile& tile, int64_t& f, NumbersAhead& ahead) const {
    for (; f + kSteps * kStep <= value_dim_; f += kSteps * kStep)
      products().template value_tile<kRows, kSteps>(tile, f, ahead, Whole<true>{});
    if constexpr (kSteps > 1) value_columns<kRows, kSteps / 2>(tile, f, ahead);
  }
};

}  // namespace SEQKERN_ISA
}  // namespace seqkern
