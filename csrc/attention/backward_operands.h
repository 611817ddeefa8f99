// What the tiles of one unit's backward read and add to, shared by a team.
#pragma once

#include "attention/operands.h"

namespace seqkern {
namespace SEQKERN_ISA {

// kQueries queries of one head.
template <class T>
struct GradientTile {
  using C = typename T::C;

  int64_t first;
  int queries;
  const char *query, *grad_output;                 // Q^T and dO^T
  typename T::Right query_rows, grad_output_rows;  // Q and dO
  C *lse, *natural_lse, *delta;  // lse in units of log2; infinity where nothing was seen
  C* grad_query;                 // dQ^T (dim, kQueries), without scale
};

template <class T>
class BackwardOperands {
 public:
  using S = typename T::Storage;
  using C = typename T::C;

  BackwardOperands(const BackwardCall& call, int64_t b, int64_t kv_head, const Extent& extent,
                   const Place& place)
      : call_(call),
        p_(call.problem),
        b_(b),
        kv_head_(kv_head),
        extent_(extent),
        place_(place),
        memory_(p_, place.team.members, place.shared),
        keys_{rows_of<S>(p_.key, b, kv_head, extent.first_key), p_.key.row, extent.keys, p_.dim},
        values_{rows_of<S>(p_.value, b, kv_head, extent.first_key), p_.value.row, extent.keys,
                p_.value_dim},
        searches_(may_exclude(p_)),
        wild_{memory_.wild, memory_.some} {}

  static int64_t bytes(const Problem& p, int members) { return Memory(p, members, nullptr).bytes; }

  // Makes the operands and clears the sums; the team meets at its end.
  void prepare() {
    Barrier& barrier = place_.team.barrier;
    const int64_t group = p_.heads / p_.kv_heads;
    if (place_.members.begin == 0) {
      wild_.some->store(0);
      for (int64_t i = 0; i < place_.team.members * group; ++i) memory_.slope_sums[i] = 0;
    }
    barrier.wait(place_.members.count());
    share(place_, extent_.keys, kStep, [&](int64_t begin, int64_t end) {
      const bool wild = searches_ && find_wild(keys_, begin, end, wild_);
      (void)wild;
      if constexpr (!T::kInPlace) {
        fill(keys_, begin, end, memory_.key);
        fill(values_, begin, end, memory_.value);
        fill_transposed(begin, end, wild);
      }
      const int64_t rows = round_up(end, kStep) - begin;
      std::memset(grad_key(begin), 0, rows * grad_key_stride() * sizeof(C));
      std::memset(grad_value(begin), 0, rows * grad_value_stride() * sizeof(C));
    });
    const int64_t tiles = ceil_div(extent_.queries, kQueries);
    share(place_, group * tiles, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) fill_tile(i % group, i / group);
    });
    barrier.wait(place_.members.count());
    has_wild_ = searches_ && wild_.some->load();
    if (T::kInPlace && has_wild_) {
      share(place_, extent_.keys, kStep,
            [&](int64_t begin, int64_t end) { fill_transposed(begin, end, true); });
      barrier.wait(place_.members.count());
    }
  }

  GradientTile<T> tile(int64_t g, int64_t i) const {
    const int64_t at = g * ceil_div(p_.queries, kQueries) + i;
    GradientTile<T> t;
    t.first = i * kQueries;
    t.queries = static_cast<int>(smaller<int64_t>(kQueries, extent_.queries - t.first));
    t.query = memory_.query + at * memory_.query_bytes;
    t.grad_output = memory_.grad_output + at * memory_.grad_output_bytes;
    const int64_t head = kv_head_ * (p_.heads / p_.kv_heads) + g;
    const int64_t row = extent_.first_query + t.first;
    t.query_rows = T::rows(rows_of<S>(p_.query, b_, head, row), p_.query.row, p_.dim,
                           memory_.query_rows + at * memory_.query_rows_bytes);
    t.grad_output_rows =
        T::rows(rows_of<S>(call_.grad_output, b_, head, row), call_.grad_output.row, p_.value_dim,
                memory_.grad_output_rows + at * memory_.grad_output_rows_bytes);
    t.lse = memory_.lse + at * kQueries;
    t.natural_lse = memory_.natural_lse + at * kQueries;
    t.delta = memory_.delta + at * kQueries;
    t.grad_query = memory_.grad_query + at * T::padded_features(p_.dim) * kQueries;
    return t;
  }

  typename T::Left key() const { return left(keys_, memory_.key); }
  typename T::Left value() const { return left(values_, memory_.value); }
  typename T::Transposed key_transposed() const {
    if constexpr (T::kInPlace) {
      if (!has_wild_) return T::in_place(keys_.rows, keys_.stride);
    }
    return T::transposed(memory_.key_transposed, keys_.count, keys_.depth);
  }

  C* grad_key(int64_t row) const { return memory_.grad_key + row * grad_key_stride(); }
  C* grad_value(int64_t row) const { return memory_.grad_value + row * grad_value_stride(); }
  int64_t grad_key_stride() const { return T::padded_features(p_.dim); }
  int64_t grad_value_stride() const { return T::padded_features(p_.value_dim); }

  double& slope_sum(int member, int64_t g) const {
    return memory_.slope_sums[member * (p_.heads / p_.kv_heads) + g];
  }

  bool has_wild() const { return has_wild_; }
  void add_wild(const Rectangle& r, const uint64_t* allowed, const Rules<S>& rules,
                const typename T::Probability* ds, C* grad_query) const {
    seqkern::SEQKERN_ISA::add_wild<T>(keys_, wild_, r, allowed, rules, ds, grad_query);
  }

 private:
  static constexpr int64_t kStep = 64;

  struct Memory {
    Memory(const Problem& p, int members, char* memory) {
      Carve carve(memory);
      const int64_t group = p.heads / larger<int64_t>(1, p.kv_heads);
      const int64_t tiles = group * ceil_div(p.queries, kQueries);
      const int64_t keys = round_up(p.keys, kStep);
      const bool searches = may_exclude(p);
      some = carve.template take<std::atomic<int>>(1);
      slope_sums = carve.template take<double>(members * group);
      wild = carve.template take<uint8_t>(searches ? p.keys : 0);
      key = carve.template take<char>(T::kInPlace ? 0 : T::left_bytes(p.keys, p.dim));
      value = carve.template take<char>(T::kInPlace ? 0 : T::left_bytes(p.keys, p.value_dim));
      key_transposed = carve.template take<char>(
          T::kInPlace && !searches ? 0 : T::transposed_bytes(p.keys, p.dim));
      query_bytes = T::right_bytes(p.dim);
      query = carve.template take<char>(tiles * query_bytes);
      grad_output_bytes = T::right_bytes(p.value_dim);
      grad_output = carve.template take<char>(tiles * grad_output_bytes);
      query_rows_bytes = T::rows_bytes(p.dim);
      query_rows = carve.template take<char>(tiles * query_rows_bytes);
      grad_output_rows_bytes = T::rows_bytes(p.value_dim);
      grad_output_rows = carve.template take<char>(tiles * grad_output_rows_bytes);
      lse = carve.template take<C>(tiles * kQueries);
      natural_lse = carve.template take<C>(tiles * kQueries);
      delta = carve.template take<C>(tiles * kQueries);
      grad_query = carve.template take<C>(tiles * T::padded_features(p.dim) * kQueries);
      grad_key = carve.template take<C>(keys * T::padded_features(p.dim));
      grad_value = carve.template take<C>(keys * T::padded_features(p.value_dim));
      bytes = carve.taken();
    }
    std::atomic<int>* some;
    double* slope_sums;
    uint8_t* wild;
    char *key, *value, *key_transposed, *query, *grad_output, *query_rows, *grad_output_rows;
    int64_t query_bytes, grad_output_bytes, query_rows_bytes, grad_output_rows_bytes;
    C *lse, *natural_lse, *delta, *grad_query, *grad_key, *grad_value;
    int64_t bytes;
  };

  static typename T::Left left(const Source<S>& source, const char* copy) {
    return T::kInPlace ? T::in_place(source.rows, source.stride)
                       : T::left(copy, source.count, source.depth);
  }
  static void fill(const Source<S>& source, int64_t begin, int64_t end, char* copy) {
    T::fill_left(source.rows + begin * source.stride, source.stride, begin, end, source.depth,
                 copy);
  }
  void fill_transposed(int64_t begin, int64_t end, bool finite_only) const {
    T::fill_transposed(keys_.rows + begin * keys_.stride, keys_.stride, begin, end, keys_.depth,
                       finite_only, memory_.key_transposed);
  }

  void fill_tile(int64_t g, int64_t i) {
    const GradientTile<T> t = tile(g, i);
    const int64_t at = g * ceil_div(p_.queries, kQueries) + i;
    const int64_t head = kv_head_ * (p_.heads / p_.kv_heads) + g;
    const int64_t row = extent_.first_query + t.first;
    const S* query = rows_of<S>(p_.query, b_, head, row);
    const S* grad = rows_of<S>(call_.grad_output, b_, head, row);
    const S* output = rows_of<S>(call_.output, b_, head, row);
    T::fill_right(query, p_.query.row, t.queries, p_.dim, memory_.query + at * memory_.query_bytes);
    T::fill_right(grad, call_.grad_output.row, t.queries, p_.value_dim,
                  memory_.grad_output + at * memory_.grad_output_bytes);
    T::fill_rows(query, p_.query.row, t.queries, p_.dim,
                 memory_.query_rows + at * memory_.query_rows_bytes);
    T::fill_rows(grad, call_.grad_output.row, t.queries, p_.value_dim,
                 memory_.grad_output_rows + at * memory_.grad_output_rows_bytes);
    std::memset(t.grad_query, 0, T::padded_features(p_.dim) * kQueries * sizeof(C));

    const int64_t lse_at = b_ * call_.lse_batch + head * call_.lse_head + row;
    const C* lse = static_cast<const C*>(call_.lse) + lse_at;
    for (int q = 0; q < kQueries; ++q) {
      const bool unseen = q >= t.queries || lse[q] == -kInfinity<C>;
      t.natural_lse[q] = unseen ? kInfinity<C> : lse[q];
      t.lse[q] = t.natural_lse[q] * static_cast<C>(kLog2e);
      t.delta[q] = C(0);
    }
    for (int q = 0; q < t.queries; ++q) {
      t.delta[q] = dot(grad + q * call_.grad_output.row, output + q * call_.output.row);
      if (call_.grad_lse) t.delta[q] -= static_cast<const C*>(call_.grad_lse)[lse_at + q];
    }
  }

  C dot(const S* a, const S* b) const {
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
  int64_t b_, kv_head_;
  Extent extent_;
  const Place& place_;
  Memory memory_;
  Source<S> keys_, values_;
  bool searches_, has_wild_ = false;
  Wild wild_;
};

}  // namespace SEQKERN_ISA
}  // namespace seqkern
