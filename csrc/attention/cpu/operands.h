// The keys and values of one unit as operands of the products.
//
// A key that is excluded contributes nothing, even where it or its value holds NaN or an infinity:
// its probability is 0, but 0 * NaN is not. So where anything may be excluded, numbers that are not
// finite are found, replaced by 0 in the operand that is summed over keys, and their
// products are added for those queries that may see the key.
#pragma once

#include "attention/cpu/kernels.h"
#include "attention/cpu/rules.h"
#include "attention/cpu/tile_rows.h"

namespace seqkern {
namespace SEQKERN_ISA {

inline bool may_exclude(const Problem& p) {
  return p.mask.data || p.bias.data || p.is_causal || p.window_left >= 0 || p.window_right >= 0;
}

// One tensor's rows of a unit.
template <class S>
struct Source {
  const S* rows;
  int64_t stride, count, depth;
};

// Whether rows [begin, end) hold a number that is not finite.
template <class S>
__attribute__((noinline)) bool holds_non_finite(const Source<S>& source, int64_t begin,
                                                int64_t end) {
  using C = compute_t<S>;
  using V = Vec<C>;
  V zeros[2] = {V(C(0)), V(C(0))};
  const int64_t whole = source.depth / V::kLanes * V::kLanes;
  for (int64_t r = begin; r < end; ++r) {
    const S* row = source.rows + r * source.stride;
    for (int64_t k = 0; k < whole; k += V::kLanes) zeros[r % 2] += load(row + k) * V(C(0));
    if (whole < source.depth)
      zeros[r % 2] += load_first(row + whole, static_cast<int>(source.depth - whole)) * V(C(0));
  }
  return !(sum(zeros[0] + zeros[1]) == C(0));
}

// Which rows of an operand are non-finite, found by a team.
struct NonFinite {
  uint8_t* rows;           // one flag per row
  std::atomic<int>* some;  // whether any is set
};

// Finds the non-finite rows of [begin, end), and whether there are any.
template <class S>
bool find_non_finite(const Source<S>& source, int64_t begin, int64_t end,
                     const NonFinite& non_finite) {
  std::memset(non_finite.rows + begin, 0, end - begin);
  if (!holds_non_finite(source, begin, end)) return false;
  for (int64_t r = begin; r < end; ++r) non_finite.rows[r] = holds_non_finite(source, r, r + 1);
  non_finite.some->store(1);
  return true;
}

// Where the features of a query's output lie: as columns, O^T (features, kQueries), or as rows.
struct OutputStrides {
  int64_t feature, query;
};
constexpr OutputStrides kColumns{kQueries, 1};

// Adds to out the products of p with the non-finite elements of `source` for the queries that may
// see the key. allowed: null if all may.
template <class T, class RulesOf>
__attribute__((noinline)) void add_non_finite(const Source<typename T::Storage>& source,
                                              const NonFinite& non_finite, const Rectangle& r,
                                              const uint64_t* allowed, const RulesOf& rules,
                                              const typename T::Probability* p, typename T::C* out,
                                              OutputStrides stride) {
  for (int j = 0; j < r.keys; ++j) {
    const int64_t key = r.first_key + j;
    if (!non_finite.rows[key]) continue;
    for (int64_t f = 0; f < source.depth; ++f) {
      const typename T::C x = widen(source.rows[key * source.stride + f]);
      if (x - x == 0) continue;
      for (int q = 0; q < r.queries; ++q) {
        const bool takes_part = !allowed || (allowed[j] >> q & 1);
        if (takes_part && !rules.bias_excludes(r.first_query + q, key))
          out[f * stride.feature + q * stride.query] += T::probability(p, j, q) * x;
      }
    }
  }
}

// Calls piece(begin, end) for pieces of [0, count) until the team has done them all; pieces begin
// at multiples of `step`.
template <class Piece>
void share(const Place& place, int64_t count, int64_t step, Piece piece) {
  const int64_t size = round_up(ceil_div(count, place.team.members), step);
  for (int m = place.members.begin; m < place.members.end; ++m)
    if (m * size < count) piece(m * size, smaller(count, (m + 1) * size));
}

// What the forward needs: keys as rows, values as columns.
template <class T>
class ForwardKeys {
 public:
  using S = typename T::Storage;
  using C = typename T::C;

  ForwardKeys(const Problem& p, int64_t b, int64_t kv_head, const Extent& extent,
              const Place& place)
      : place_(place),
        keys_{rows_of<S>(p.key, b, kv_head, extent.first_key), p.key.row, extent.keys, p.dim},
        values_{rows_of<S>(p.value, b, kv_head, extent.first_key), p.value.row, extent.keys,
                p.value_dim},
        searches_(may_exclude(p)) {
    Memory memory(p, place.shared);
    key_copy_ = memory.key;
    value_copy_ = memory.value;
    non_finite_ = {memory.non_finite, memory.some};
  }

  static int64_t bytes(const Problem& p) { return Memory(p, nullptr).bytes; }

  // Makes the operands; the team meets at its end. Nobody may still work on the unit before.
  void prepare() {
    Team& team = place_.team;
    if (place_.members.begin == 0) {
      non_finite_.some->store(0);
      team.next.store(0);
    }
    if (!T::kInPlace || searches_) {
      team.barrier.wait(place_.members.count());
      share(place_, keys_.count, kStep, [&](int64_t begin, int64_t end) {
        [[maybe_unused]] const bool non_finite =
            searches_ && find_non_finite(values_, begin, end, non_finite_);
        if constexpr (!T::kInPlace) {
          T::fill_left(keys_.rows + begin * keys_.stride, keys_.stride, begin, end, keys_.depth,
                       key_copy_);
          T::fill_transposed(values_.rows + begin * values_.stride, values_.stride, begin, end,
                             values_.depth, non_finite, value_copy_);
        }
      });
    }
    team.barrier.wait(place_.members.count());
    has_non_finite_ = searches_ && non_finite_.some->load();
    if (T::kInPlace && has_non_finite_) {
      share(place_, keys_.count, kStep, [&](int64_t begin, int64_t end) {
        T::fill_transposed(values_.rows + begin * values_.stride, values_.stride, begin, end,
                           values_.depth, true, value_copy_);
      });
      team.barrier.wait(place_.members.count());
    }
  }

  typename T::Left key() const {
    return T::kInPlace ? T::in_place(keys_.rows, keys_.stride)
                       : T::left(key_copy_, keys_.count, keys_.depth);
  }
  typename T::Transposed value() const {
    if constexpr (T::kInPlace) {
      if (!has_non_finite_) return T::in_place(values_.rows, values_.stride);
    }
    return T::transposed(value_copy_, values_.count, values_.depth);
  }

  bool has_non_finite() const { return has_non_finite_; }
  void add_non_finite(const Rectangle& r, const uint64_t* allowed, const Rules<S>& rules,
                      const typename T::Probability* p, C* output,
                      OutputStrides stride = kColumns) const {
    seqkern::SEQKERN_ISA::add_non_finite<T>(values_, non_finite_, r, allowed, rules, p, output,
                                            stride);
  }

 private:
  static constexpr int64_t kStep = 64;

  struct Memory {
    Memory(const Problem& p, char* memory) {
      Carve carve(memory);
      some = carve.template take<std::atomic<int>>(1);
      const bool searches = may_exclude(p);
      non_finite = carve.template take<uint8_t>(searches ? p.keys : 0);
      key = carve.template take<char>(T::kInPlace ? 0 : T::left_bytes(p.keys, p.dim));
      value = carve.template take<char>(
          T::kInPlace && !searches ? 0 : T::transposed_bytes(p.keys, p.value_dim));
      bytes = carve.taken();
    }
    std::atomic<int>* some;
    uint8_t* non_finite;
    char *key, *value;
    int64_t bytes;
  };

  const Place& place_;
  Source<S> keys_, values_;
  bool searches_, has_non_finite_ = false;
  char *key_copy_, *value_copy_;
  NonFinite non_finite_;
};

}  // namespace SEQKERN_ISA
}  // namespace seqkern
