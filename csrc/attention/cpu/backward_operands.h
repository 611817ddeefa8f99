// What the tiles of one unit's backward read and add to, shared by a team.
#pragma once

#include "attention/cpu/operands.h"
#include "attention/cpu/row_sums.h"

namespace seqkern {
namespace SEQKERN_ISA {

// kQueries queries of one head.
template <class T>
struct GradientTile {
  using C = typename T::C;

  int64_t head, first;  // first query
  int queries;
  const char *query, *grad_output;                 // Q^T and dO^T
  typename T::Right query_rows, grad_output_rows;  // Q and dO
  // P = exp(S - lse) and dS = P * (dP - delta), with lse in units of log2, infinity where nothing
  // was seen. Where the rows are summed anew (row_sums.h), P = exp(S - lse) * inverse, with the
  // greatest score in the place of lse, and dS = P * (dP - reference - delta).
  C *lse, *natural_lse, *inverse, *reference, *delta;
  C* grad_query;  // dQ^T (dim, kQueries), without scale
};

// A tile of keys and values as operands, made for one callback: rows count from the tile's first.
template <class T>
struct KeyTile {
  typename T::Left key, value;
  typename T::Transposed key_transposed;  // without non-finite numbers
};

// The scratch of such a tile.
template <class T>
struct KeyTileMemory {
  KeyTileMemory(const Problem& p, Carve& carve) {
    constexpr int kKeys = T::kGradientKeys;
    key = carve.take<char>(T::kInPlace ? 0 : T::left_bytes(kKeys, p.dim));
    value = carve.take<char>(T::kInPlace ? 0 : T::left_bytes(kKeys, p.value_dim));
    key_transposed =
        carve.take<char>(T::kInPlace && !may_exclude(p) ? 0 : T::transposed_bytes(kKeys, p.dim));
  }

  char *key, *value, *key_transposed;
};

// The queries of a unit are those of its heads, one head's tiles after the other's, and are worked
// on in blocks of so many tiles that what belongs to them is small beside the keys' sums, and close
// at hand. dK and dV grow over all blocks.
template <class T>
class BackwardOperands {
 public:
  using S = typename T::Storage;
  using C = typename T::C;

  struct Ways {
    bool sums_rows;        // softmax and delta come from sum_rows() and not from the forward
    bool rows_at_once;     // the queries' gradient is written as rows, and not added up in tiles
    bool multiplies_rows;  // scores are products of rows: Q^T and dO^T are not needed
    bool keys_at_once;     // dK and dV are written where they belong, and not added up before
  };

  BackwardOperands(const BackwardCall& call, int64_t b, int64_t kv_head, const Extent& extent,
                   const Ways& ways, const Place& place)
      : call_(call),
        p_(call.problem),
        b_(b),
        kv_head_(kv_head),
        tiles_of_head_(ceil_div(extent.queries, kQueries)),
        extent_(extent),
        ways_(ways),
        place_(place),
        memory_(p_, place.team.members, place.shared),
        keys_{rows_of<S>(p_.key, b, kv_head, extent.first_key), p_.key.row, extent.keys, p_.dim},
        values_{rows_of<S>(p_.value, b, kv_head, extent.first_key), p_.value.row, extent.keys,
                p_.value_dim},
        searches_(may_exclude(p_)),
        non_finite_{memory_.non_finite, memory_.some},
        grad_keys_(memory_.grad_key),
        grad_values_(memory_.grad_value),
        grad_key_stride_(T::padded_features(p_.dim)),
        grad_value_stride_(T::padded_features(p_.value_dim)) {
    if constexpr (T::kInPlace) {
      if (!ways.keys_at_once) return;
      grad_keys_ = rows_of<S>(call.grad_key, b, kv_head, extent.first_key);
      grad_values_ = rows_of<S>(call.grad_value, b, kv_head, extent.first_key);
      grad_key_stride_ = call.grad_key.row;
      grad_value_stride_ = call.grad_value.row;
    }
  }

  static int64_t bytes(const Problem& p, int members) { return Memory(p, members, nullptr).bytes; }

  // Finds non-finite keys and clears the sums; the team meets at its end.
  void prepare() {
    Barrier& barrier = place_.team.barrier;
    const int64_t group = p_.heads / p_.kv_heads;
    if (place_.members.begin == 0) {
      non_finite_.some->store(0);
      for (int64_t i = 0; i < place_.team.members * group; ++i) memory_.slope_sums[i] = 0;
    }
    barrier.wait(place_.members.count());
    share(place_, extent_.keys, kStep, [&](int64_t begin, int64_t end) {
      if (searches_) find_non_finite(keys_, begin, end, non_finite_);
      if (ways_.keys_at_once) {
        if (searches_ || extent_.queries == 0) clear_gradients(begin, end);
        return;
      }
      const int64_t rows = round_up(end, T::kRowStep) - begin;
      std::memset(grad_key(begin), 0, rows * grad_key_stride() * sizeof(C));
      std::memset(grad_value(begin), 0, rows * grad_value_stride() * sizeof(C));
    });
    barrier.wait(place_.members.count());
    has_non_finite_ = searches_ && non_finite_.some->load();
  }

  int64_t tiles_of_head() const { return tiles_of_head_; }
  int64_t tiles() const { return p_.heads / p_.kv_heads * tiles_of_head_; }
  int64_t block_tiles() const { return memory_.block; }

  // Makes the operands of the block that begins at tile `first`; the team meets at its end.
  void take_block(int64_t first) {
    first_tile_ = first;
    share(place_, smaller(memory_.block, tiles() - first), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = first + begin; i < first + end; ++i) fill_tile(i);
    });
    place_.team.barrier.wait(place_.members.count());
  }

  // Tile i of the unit, which is in the block.
  __attribute__((noinline)) GradientTile<T> tile(int64_t i) const {
    const int64_t at = i - first_tile_;
    GradientTile<T> t;
    t.head = kv_head_ * (p_.heads / p_.kv_heads) + i / tiles_of_head_;
    t.first = i % tiles_of_head_ * kQueries;
    t.queries = static_cast<int>(smaller<int64_t>(kQueries, extent_.queries - t.first));
    t.query = memory_.query + at * memory_.query_bytes;
    t.grad_output = memory_.grad_output + at * memory_.grad_output_bytes;
    const int64_t row = extent_.first_query + t.first;
    t.query_rows = T::rows(rows_of<S>(p_.query, b_, t.head, row), p_.query.row, p_.dim,
                           memory_.query_rows + at * memory_.query_rows_bytes);
    t.grad_output_rows =
        T::rows(rows_of<S>(call_.grad_output, b_, t.head, row), call_.grad_output.row, p_.value_dim,
                memory_.grad_output_rows + at * memory_.grad_output_rows_bytes);
    t.lse = memory_.lse + at * kQueries;
    t.natural_lse = memory_.natural_lse + at * kQueries;
    t.inverse = memory_.inverse + at * kQueries;
    t.reference = memory_.reference + at * kQueries;
    t.delta = memory_.delta + at * kQueries;
    t.grad_query = memory_.grad_query + at * T::padded_features(p_.dim) * kQueries;
    return t;
  }

  // The sums over a member's keys for tile i, which is in the block.
  RowSums<C> row_sums(int member, int64_t i) const {
    const int64_t at = member * memory_.block + i - first_tile_;
    return RowSums<C>(memory_.row_sums + at * RowSums<C>::kCount);
  }
  // Softmax and delta of tile i from its sums.
  void finish_rows(int64_t i, const RowSums<C>& sums) const {
    const GradientTile<T> t = tile(i);
    const C* sink = p_.sinks ? static_cast<const C*>(p_.sinks) + t.head : nullptr;
    finish_row_sums(sums, sink, t.reference, t.lse, t.inverse, t.delta);
  }

  // Whether what the sums over rows were made of may be kept until it is needed again.
  static bool keeps_scores(const Problem& p) {
    return p.queries <= kMostDecodedQueries && p.softcap == 0;
  }
  // The scores of tile i for a key, and its dP behind them: kFewColumns of each.
  C* kept_scores(int64_t i, int64_t key) const {
    return memory_.kept_scores + ((i - first_tile_) * p_.keys + key) * 2 * kFewColumns;
  }
  static constexpr int kFewColumns = larger(T::kLanes, static_cast<int>(kMostDecodedQueries));

  // The operands of keys [begin, end), at most kGradientKeys of them from a multiple of that on:
  // those of the scores and dP, those of dQ, or both.
  enum KeyTileUse { kScores = 1, kGradQuery = 2 };
  __attribute__((noinline)) KeyTile<T> key_tile(int64_t begin, int64_t end, int use,
                                                const KeyTileMemory<T>& memory) const {
    bool non_finite = false;
    if (has_non_finite_)
      for (int64_t j = begin; j < end; ++j) non_finite |= non_finite_.rows[j] != 0;
    const int64_t keys = end - begin;
    const S *key = keys_.rows + begin * keys_.stride,
            *value = values_.rows + begin * values_.stride;
    if constexpr (T::kInPlace) {
      const auto in_place = T::in_place(key, keys_.stride);
      non_finite = non_finite && use & kGradQuery;
      if (non_finite)
        T::fill_transposed(key, keys_.stride, 0, keys, p_.dim, true, memory.key_transposed);
      return {in_place, T::in_place(value, values_.stride),
              non_finite ? T::transposed(memory.key_transposed, keys, p_.dim) : in_place};
    } else {
      if (use & kScores) {
        T::fill_left(key, keys_.stride, 0, keys, p_.dim, memory.key);
        T::fill_left(value, values_.stride, 0, keys, p_.value_dim, memory.value);
      }
      if (use & kGradQuery)
        T::fill_transposed(key, keys_.stride, 0, keys, p_.dim, non_finite, memory.key_transposed);
      return {T::left(memory.key, keys, p_.dim), T::left(memory.value, keys, p_.value_dim),
              T::transposed(memory.key_transposed, keys, p_.dim)};
    }
  }

  // dK and dV: sums, or the results themselves. No more than are wanted of the latter.
  C* grad_key(int64_t row) const { return grad_keys_ + row * grad_key_stride_; }
  C* grad_value(int64_t row) const { return grad_values_ + row * grad_value_stride_; }
  int64_t grad_key_stride() const { return grad_key_stride_; }
  int64_t grad_value_stride() const { return grad_value_stride_; }

  double& slope_sum(int member, int64_t g) const {
    return memory_.slope_sums[member * (p_.heads / p_.kv_heads) + g];
  }

  bool has_non_finite() const { return has_non_finite_; }
  void add_non_finite(const Rectangle& r, const uint64_t* allowed, const Rules<S>& rules,
                      const typename T::Probability* ds, C* grad_query,
                      OutputStrides stride) const {
    seqkern::SEQKERN_ISA::add_non_finite<T>(keys_, non_finite_, r, allowed, rules, ds, grad_query,
                                            stride);
  }

 private:
  static constexpr int64_t kStep = 64;

  // Of keys that no query may see.
  void clear_gradients(int64_t begin, int64_t end) const {
    for (int64_t row = begin; row < end; ++row) {
      if (call_.grad_key.data) std::memset(grad_key(row), 0, p_.dim * sizeof(C));
      if (call_.grad_value.data) std::memset(grad_value(row), 0, p_.value_dim * sizeof(C));
    }
  }

  struct Memory {
    __attribute__((noinline)) Memory(const Problem& p, int members, char* memory) {
      Carve carve(memory);
      const int64_t group = p.heads / larger<int64_t>(1, p.kv_heads);
      const int64_t keys = round_up(p.keys, kStep);
      query_bytes = T::right_bytes(p.dim);
      grad_output_bytes = T::right_bytes(p.value_dim);
      query_rows_bytes = T::rows_bytes(p.dim);
      grad_output_rows_bytes = T::rows_bytes(p.value_dim);
      const int64_t grad_query_count = T::padded_features(p.dim) * kQueries;
      const int64_t tile_bytes = query_bytes + grad_output_bytes + query_rows_bytes +
                                 grad_output_rows_bytes +
                                 grad_query_count * static_cast<int64_t>(sizeof(C));
      // Every member has some tiles of a block to work with in each round.
      constexpr int64_t kBlockBytes = 2 << 20, kLeastTiles = 4;
      const int64_t fit = kBlockBytes / larger<int64_t>(1, tile_bytes);  // none without features
      const int64_t wanted = larger(members * kLeastTiles, fit);
      block = smaller(round_up(wanted, members), group * ceil_div(p.queries, kQueries));
      some = carve.template take<std::atomic<int>>(1);
      slope_sums = carve.template take<double>(members * group);
      non_finite = carve.template take<uint8_t>(may_exclude(p) ? p.keys : 0);
      query = carve.template take<char>(block * query_bytes);
      grad_output = carve.template take<char>(block * grad_output_bytes);
      query_rows = carve.template take<char>(block * query_rows_bytes);
      grad_output_rows = carve.template take<char>(block * grad_output_rows_bytes);
      lse = carve.template take<C>(block * kQueries);
      natural_lse = carve.template take<C>(block * kQueries);
      inverse = carve.template take<C>(block * kQueries);
      reference = carve.template take<C>(block * kQueries);
      delta = carve.template take<C>(block * kQueries);
      row_sums = carve.template take<C>(members * block * RowSums<C>::kCount);
      kept_scores = carve.template take<C>(keeps_scores(p) ? block * p.keys * 2 * kFewColumns : 0);
      grad_query = carve.template take<C>(block * grad_query_count);
      grad_key = carve.template take<C>(keys * T::padded_features(p.dim));
      grad_value = carve.template take<C>(keys * T::padded_features(p.value_dim));
      bytes = carve.taken();
    }
    std::atomic<int>* some;
    double* slope_sums;
    uint8_t* non_finite;
    char *query, *grad_output, *query_rows, *grad_output_rows;
    int64_t query_bytes, grad_output_bytes, query_rows_bytes, grad_output_rows_bytes;
    C *lse, *natural_lse, *inverse, *reference, *delta, *row_sums, *kept_scores, *grad_query,
        *grad_key, *grad_value;
    int64_t block;  // tiles
    int64_t bytes;
  };

  void fill_tile(int64_t i) {
    const GradientTile<T> t = tile(i);
    const int64_t at = i - first_tile_, row = extent_.first_query + t.first;
    const S* query = rows_of<S>(p_.query, b_, t.head, row);
    const S* grad = rows_of<S>(call_.grad_output, b_, t.head, row);
    if (!ways_.multiplies_rows) {
      T::fill_right(query, p_.query.row, t.queries, p_.dim,
                    memory_.query + at * memory_.query_bytes);
      T::fill_right(grad, call_.grad_output.row, t.queries, p_.value_dim,
                    memory_.grad_output + at * memory_.grad_output_bytes);
    }
    T::fill_rows(query, p_.query.row, t.queries, p_.dim,
                 memory_.query_rows + at * memory_.query_rows_bytes);
    T::fill_rows(grad, call_.grad_output.row, t.queries, p_.value_dim,
                 memory_.grad_output_rows + at * memory_.grad_output_rows_bytes);
    if (ways_.rows_at_once && call_.grad_query.data)  // of queries that attend to no key
      for (int q = 0; q < t.queries; ++q)
        std::memset(rows_of<S>(call_.grad_query, b_, t.head, row + q), 0, p_.dim * sizeof(S));
    else
      zero_vectors(t.grad_query, T::padded_features(p_.dim), 0,
                   static_cast<int>(ceil_div(t.queries, T::kLanes)));

    for (int q = 0; q < kQueries; ++q) t.delta[q] = t.reference[q] = C(0);
    if (!call_.lse) return;
    const S* output = rows_of<S>(call_.output, b_, t.head, row);
    const int64_t lse_at = b_ * call_.lse_batch + t.head * call_.lse_head + row;
    const C* lse = static_cast<const C*>(call_.lse) + lse_at;
    for (int q = 0; q < kQueries; ++q) {
      const bool unseen = q >= t.queries || lse[q] == -kInfinity<C>;
      t.natural_lse[q] = unseen ? kInfinity<C> : lse[q];
      t.lse[q] = t.natural_lse[q] * static_cast<C>(kLog2e);
    }
    for (int q = 0; q < t.queries; ++q) {
      (ways_.sums_rows ? t.reference : t.delta)[q] =
          dot(grad + q * call_.grad_output.row, output + q * call_.output.row);
      if (call_.grad_lse) t.delta[q] -= static_cast<const C*>(call_.grad_lse)[lse_at + q];
    }
  }

  __attribute__((noinline)) C dot(const S* a, const S* b) const {
    Vec<C> total(C(0));
    constexpr int kLanes = Vec<C>::kLanes;
    for (int64_t f = 0; f < p_.value_dim; f += kLanes) {
      const int n = static_cast<int>(smaller<int64_t>(kLanes, p_.value_dim - f));
      total += load_first(a + f, n) * load_first(b + f, n);
    }
    return sum(total);
  }

  const BackwardCall& call_;
  const Problem& p_;
  int64_t b_, kv_head_, tiles_of_head_;
  Extent extent_;
  Ways ways_;
  const Place& place_;
  Memory memory_;
  int64_t first_tile_ = 0;  // of the block
  Source<S> keys_, values_;
  bool searches_, has_non_finite_ = false;
  NonFinite non_finite_;
  C *grad_keys_, *grad_values_;
  int64_t grad_key_stride_, grad_value_stride_;
};

}  // namespace SEQKERN_ISA
}  // namespace seqkern
