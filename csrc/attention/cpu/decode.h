// Attention of few rows (queries of the heads that share keys) against many keys: one pass over
// keys and values with a running maximum and sum (Milakov & Gimelshein 2018), split over the keys
// as in Flash-Decoding (Dao et al. 2023).
//
// The time is that of reading keys and values from memory, if everything else hides behind it: they
// are read in place, once, a chunk of keys and then the same chunk of values, and while one is
// worked on the other is prefetched.
//
// P is a set of products: DecodeFma, DecodeDots or DecodeAmx.
#pragma once

#include "attention/cpu/decode_fma.h"
#include "attention/cpu/decode_kernels.h"
#include "attention/cpu/decode_rows.h"
#include "attention/cpu/exp2.h"
#include "attention/cpu/tile_rows.h"

namespace seqkern {
namespace SEQKERN_ISA {

template <class T>
inline T highest(Vec<T> x) {
  T most = x.v[0];
  for (int i = 1; i < Vec<T>::kLanes; ++i) most = x.v[i] > most ? T(x.v[i]) : most;
  return most;
}

// Whether some lane exceeds the limit; a NaN does not.
#if defined(__AVX512F__)
inline bool exceeds(Vec<float> x, float limit) {
  return _mm512_cmp_ps_mask(x.v, Vec<float>(limit).v, _CMP_GT_OQ) != 0;
}
inline bool exceeds(Vec<double> x, double limit) {
  return _mm512_cmp_pd_mask(x.v, Vec<double>(limit).v, _CMP_GT_OQ) != 0;
}
#else
template <class T>
inline bool exceeds(Vec<T> x, T limit) {
  return highest(x) > limit;
}
#endif

// The result of a piece.
template <class P>
struct DecodePartial {
  using C = typename P::C;

  DecodePartial(const Problem& p, int64_t rows, char* memory) {
    Carve carve(memory);
    output = carve.take<C>(P::padded_rows(rows) * P::value_stride(p.value_dim));
    maximum = carve.take<C>(rows);
    sum = carve.take<C>(rows);
    bytes = carve.taken();
  }

  C* output;   // (rows, value_stride), not divided by the sum; features in P's order
  C* maximum;  // of the scores, in units of log2
  C* sum;      // of the exponentials
  int64_t bytes;
};

template <class P>
struct DecodeScratch {
  using S = typename P::S;
  using C = typename P::C;

  DecodeScratch(const Problem& p, int64_t rows_, char* memory) {
    Carve carve(memory);
    products = carve.take<char>(P::bytes(p.dim, p.value_dim, rows_));
    scores = carve.take<C>(P::padded_rows(rows_) * P::kChunk);
    terms = carve.take<C>(rows_ * P::kChunk);
    terms_of = carve.take<const C*>(rows_);
    correction = carve.take<C>(rows_);
    sums = carve.take<C>(rows_ * Vec<C>::kLanes);
    rows = carve.take<DecodeRow<S>>(rows_);
    bytes = carve.taken();
  }

  char* products;
  C *scores, *terms;
  const C** terms_of;
  C* correction;  // what the output so far has to be multiplied by
  C* sums;        // of the exponentials, lane by lane
  DecodeRow<S>* rows;
  int64_t bytes;
};

template <class P>
class Decoder {
 public:
  using S = typename P::S;
  using C = typename P::C;
  using V = Vec<C>;

  Decoder(const Problem& p, const DecodePiece& piece, char* partial, char* own)
      : p_(p),
        piece_(piece),
        extent_(extent_of(p, piece.batch)),
        group_(p.heads / p.kv_heads),
        rows_(group_ * extent_.queries),
        scratch_(p, most_rows(p), own),
        partial_(p, most_rows(p), partial),
        products_(p.dim, p.value_dim, rows_, scratch_.products),
        keys_(rows_of<S>(p.key, piece.batch, piece.kv_head, extent_.first_key)),
        values_(rows_of<S>(p.value, piece.batch, piece.kv_head, extent_.first_key)) {}

  void run() {
    begin();
    for (int64_t key = piece_.first; key < piece_.end; key += P::kChunk)
      run_chunk(key, static_cast<int>(smaller<int64_t>(P::kChunk, piece_.end - key)));
    products_.end();
    for (int64_t r = 0; r < rows_; ++r) partial_.sum[r] = sum(load(scratch_.sums + r * V::kLanes));
  }

 private:
  void begin() {
    for (int64_t r = 0; r < rows_; ++r) {
      const int64_t head = piece_.kv_head * group_ + r / extent_.queries;
      const int64_t query = r % extent_.queries;
      scratch_.rows[r].set(p_, piece_.batch, head, query, extent_);
      products_.set_query(r, rows_of<S>(p_.query, piece_.batch, head, extent_.first_query + query));
      partial_.maximum[r] = kLeastExponent<C>;
    }
    std::memset(scratch_.sums, 0, rows_ * V::kLanes * sizeof(C));
    std::memset(partial_.output, 0, rows_ * P::value_stride(p_.value_dim) * sizeof(C));
    products_.begin();
  }

  void run_chunk(int64_t first, int keys) {
    TermsFound found{true, false};
    const bool has_terms = fill_terms(first, keys, found);
    if (!found.allowed) return;
    const S* key = keys_ + first * p_.key.row;
    const S* value = values_ + first * p_.value.row;
    products_.scores({key, p_.key.row}, keys, {value, p_.value.row}, scratch_.scores);
    for (int64_t r = 0; r < rows_; ++r)
      softmax(r, keys, has_terms ? scratch_.terms_of[r] : nullptr);
    if (found.excluded && !all_finite(value, keys))
      add_each(first, keys);
    else
      products_.accumulate({value, p_.value.row}, keys,
                           {key + static_cast<int64_t>(keys) * p_.key.row, p_.key.row},
                           scratch_.scores, scratch_.correction, partial_.output);
  }

  // Whether the chunk's scores need terms; `found` is about all rows together.
  bool fill_terms(int64_t first, int keys, TermsFound& found) {
    bool needed = false;
    for (int64_t r = 0; r < rows_; ++r) needed |= scratch_.rows[r].has_terms(first, keys);
    if (!needed) return false;
    found = {false, false};
    for (int64_t r = 0; r < rows_; ++r) {
      if (r > 0 && scratch_.rows[r].same_terms(scratch_.rows[r - 1])) {
        scratch_.terms_of[r] = scratch_.terms_of[r - 1];
        continue;
      }
      C* terms = scratch_.terms + r * P::kChunk;
      const TermsFound row = scratch_.rows[r].fill_terms(first, keys, terms);
      found.allowed |= row.allowed;
      found.excluded |= row.excluded;
      scratch_.terms_of[r] = terms;
    }
    return true;
  }

  // Turns a row's scores into exponentials and moves its maximum and sum on.
  void softmax(int64_t r, int keys, const C* terms) {
    C* scores = scratch_.scores + r * P::kChunk;
    const int padded = static_cast<int>(round_up(keys, P::kKeyStep));
    V most(kLeastExponent<C>);
    if (terms || p_.softcap != 0) {
      most = transform(scores, keys, padded, terms);
    } else {
      const V factor(static_cast<C>(p_.scale * kLog2e));
      for (int j = 0; j < keys; j += V::kLanes) {
        const V x = load(scores + j) * factor;
        store(scores + j, x);
        if (j + V::kLanes <= keys) most = greater(x, most);
      }
      for (int j = keys / V::kLanes * V::kLanes; j < keys; ++j) most = greater(V(scores[j]), most);
      for (int j = keys; j < padded; ++j) scores[j] = -kInfinity<C>;
    }
    V sum = load(scratch_.sums + r * V::kLanes);
    scratch_.correction[r] = C(1);
    if (exceeds(most, partial_.maximum[r])) {  // seldom, after the first chunks
      const C maximum = highest(most);
      const V correction = exp2_(V(partial_.maximum[r] - maximum));
      sum = sum * correction;
      scratch_.correction[r] = correction.v[0];
      partial_.maximum[r] = maximum;
    }
    const V maximum(partial_.maximum[r]);
    for (int j = 0; j < padded; j += V::kLanes) {
      const V x = exp2_(load(scores + j) - maximum);
      sum += x;
      products_.store_weights(scratch_.scores, r, j, x);
    }
    store(scratch_.sums + r * V::kLanes, sum);
  }

  // Scores as the products gave them to exponents of 2; returns the highest of each lane.
  V transform(C* scores, int keys, int padded, const C* terms) const {
    const V scale(static_cast<C>(p_.scale)), cap(static_cast<C>(p_.softcap));
    const V inverse_cap(p_.softcap != 0 ? static_cast<C>(1 / p_.softcap) : C(0));
    const V least(kLeastScore<C>), excluded(-kInfinity<C>), log2e(static_cast<C>(kLog2e));
    V most(kLeastExponent<C>);
    for (int j = 0; j < padded; j += V::kLanes) {
      V x = load(scores + j) * scale;
      if (p_.softcap != 0) x = tanh_(x * inverse_cap) * cap;
      V term(C(0));
      if (terms) {
        term = load(terms + j);
        x += term;
      }
      const V bounded = x.v < least.v ? least.v : x.v;  // a NaN stays
      const V kept = x.v == excluded.v ? excluded.v : (bounded * log2e).v;
      x = V(typename V::raw(term.v == excluded.v ? excluded.v : kept.v));
      const int n = keys - j;
      if (n < V::kLanes) x = where_bits((uint64_t(1) << (n > 0 ? n : 0)) - 1, x, -kInfinity<C>);
      store(scores + j, x);
      most = greater(x, most);
    }
    return most;
  }

  bool all_finite(const S* value, int keys) const {
    V zero(C(0));
    for (int j = 0; j < keys; ++j, value += p_.value.row)
      for (int64_t f = 0; f < p_.value_dim; f += V::kLanes)
        zero +=
            load_first(value + f, static_cast<int>(smaller<int64_t>(V::kLanes, p_.value_dim - f))) *
            V(C(0));
    return sum(zero) == C(0);
  }

  // A chunk with excluded keys and values that are not finite: 0 * NaN is NaN, so only those keys
  // are added that a row may see.
  void add_each(int64_t first, int keys) {
    const int64_t stride = P::value_stride(p_.value_dim);
    for (int64_t r = 0; r < rows_; ++r) {
      C* output = partial_.output + r * stride;
      for (int64_t f = 0; f < stride; ++f) output[f] *= scratch_.correction[r];
      for (int j = 0; j < keys; ++j) {
        if (scratch_.rows[r].excludes(first + j)) continue;
        const C weight = products_.weight(scratch_.scores, r, j);
        const S* value = values_ + (first + j) * p_.value.row;
        for (int64_t f = 0; f < stride; ++f) {
          const int64_t column = P::column(f);
          if (column < p_.value_dim) output[f] += weight * widen(value[column]);
        }
      }
    }
  }

  const Problem& p_;
  DecodePiece piece_;
  Extent extent_;
  int64_t group_, rows_;
  DecodeScratch<P> scratch_;
  DecodePartial<P> partial_;
  P products_;
  const S *keys_, *values_;
};

template <class P>
void decode_piece(const Problem& p, const DecodePiece& piece, char* partial, char* own) {
  Decoder<P>(p, piece, partial, own).run();
}

// Adds the result of the pieces that follow to that of the first ones.
template <class P>
void decode_fold(const Problem& p, int64_t rows, char* first_pieces, const char* next_piece) {
  using C = typename P::C;
  using V = Vec<C>;
  const int64_t stride = P::value_stride(p.value_dim);
  const DecodePartial<P> total(p, most_rows(p), first_pieces);
  const DecodePartial<P> next(p, most_rows(p), const_cast<char*>(next_piece));
  for (int64_t r = 0; r < rows; ++r) {
    const C before = total.maximum[r], here = next.maximum[r];
    const C maximum = here > before ? here : before;
    const V kept = exp2_(V(before - maximum)), added = exp2_(V(here - maximum));
    total.maximum[r] = maximum;
    total.sum[r] = total.sum[r] * kept.v[0] + next.sum[r] * added.v[0];
    for (int64_t f = r * stride; f < (r + 1) * stride; f += V::kLanes)
      store(total.output + f, load(total.output + f) * kept + load(next.output + f) * added);
  }
}

template <class P>
void decode_finish(const ForwardCall& call, int64_t b, int64_t kv_head, const char* result,
                   char* own) {
  using S = typename P::S;
  using C = typename P::C;
  using V = Vec<C>;
  const Problem& p = call.problem;
  const Extent extent = extent_of(p, b);
  const int64_t group = p.heads / p.kv_heads, stride = P::value_stride(p.value_dim);
  const DecodePartial<P> total(p, most_rows(p), const_cast<char*>(result));
  C* row = reinterpret_cast<C*>(own);
  for (int64_t r = 0; r < group * extent.queries; ++r) {
    const int64_t head = kv_head * group + r / extent.queries;
    const int64_t query = extent.first_query + r % extent.queries;
    double sum = result ? total.sum[r] : 0;
    double maximum = result ? total.maximum[r] : kLeastExponent<C>, weight = 1;
    if (p.sinks) {
      const double sink = static_cast<const C*>(p.sinks)[head] * kLog2e;
      const double most = sink > maximum ? sink : maximum;
      weight = __builtin_exp2(maximum - most);
      sum = sum * weight + __builtin_exp2(sink - most);
      maximum = most;
    }
    const bool empty = sum == 0;
    if (call.lse)
      static_cast<C*>(call.lse)[b * call.lse_batch + head * call.lse_head + query] =
          empty ? -kInfinity<C> : static_cast<C>(maximum * kLn2 + __builtin_log(sum));
    if (empty || !result)
      std::memset(row, 0, stride * sizeof(C));
    else
      P::order(total.output + r * stride, stride, row);
    const V factor(static_cast<C>(empty ? 0 : weight / sum));
    S* to = rows_of<S>(call.output, b, head, query);
    for (int64_t f = 0; f < p.value_dim; f += V::kLanes)
      store_first(to + f, load(row + f) * factor,
                  static_cast<int>(smaller<int64_t>(V::kLanes, p.value_dim - f)));
  }
}

template <class P>
int64_t decode_own_bytes(const Problem& p, int64_t rows) {
  const int64_t row = P::value_stride(p.value_dim) * static_cast<int64_t>(sizeof(typename P::C));
  return round_up(larger(row, DecodeScratch<P>(p, rows, nullptr).bytes), kLineBytes);
}

template <class P>
int64_t decode_partial_bytes(const Problem& p, int64_t rows) {
  return DecodePartial<P>(p, rows, nullptr).bytes;
}

template <class P>
DecodeKernels decode_kernels_of() {
  return {P::kChunk,       decode_own_bytes<P>, decode_partial_bytes<P>,
          decode_piece<P>, decode_fold<P>,      decode_finish<P>};
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
