// Attention's forward: softmax(Q K^T) V over tiles of keys with a running maximum and sum, as in
// FlashAttention (Dao et al. 2022, algorithm 1; Milakov & Gimelshein 2018 for the online softmax).
//
// T is a set of tile products: FmaTiles or Bf16Tiles.
#pragma once

#include "attention/cpu/exp2.h"
#include "attention/cpu/kernels.h"
#include "attention/cpu/operands.h"
#include "attention/cpu/rules.h"
#include "attention/cpu/tile_rows.h"

namespace seqkern {
namespace SEQKERN_ISA {

// Probabilities of a tile of queries for all keys, where the weights are wanted, too.
template <class T>
struct KeptTile {
  using C = typename T::C;
  using V = Vec<C>;

  // Some keys whose probabilities were made with the same maximum.
  struct Segment {
    int64_t first;
    int keys;
  };

  KeptTile(const Problem& p, Carve& carve) {
    constexpr int kSlack = 2 * kQueries;  // products write whole tiles
    probabilities = carve.template take<C>((round_up(p.keys, kQueries) + kSlack) * kQueries);
    const int64_t most =
        (ceil_div(p.keys, T::kTileKeys) + 2) * ceil_div(T::kTileKeys, T::kChunkKeys);
    factors = carve.template take<C>(most * kQueries);
    segments = carve.template take<Segment>(most);
  }

  C* factor(int segment) const { return factors + segment * kQueries; }

  void add(int64_t first, int keys, const C* maximum) {
    std::memcpy(factor(count), maximum, kQueries * sizeof(C));
    segments[count++] = {first, keys};
  }

  // From the maxima, for a vector of queries, what the probabilities have to be multiplied with.
  void scale(int column, V maximum, V inverse) const {
    for (int i = 0; i < count; ++i) {
      C* const f = factor(i) + column;
      store(f, exp2_(load(f) - maximum) * inverse);
    }
  }

  // All keys from `first` on have the right probabilities already.
  void is_scaled(int64_t first, int keys) {
    count = 0;
    if (keys <= 0) return;
    for (int q = 0; q < kQueries; ++q) factors[q] = C(1);
    segments[count++] = {first, keys};
  }

  C* probabilities;  // (keys, kQueries)
  C* factors;        // (segments, kQueries): the maxima, then the factors
  Segment* segments;
  int count;
};

// kQueries queries at work.
template <class T>
struct QueryTile {
  using C = typename T::C;

  void* right;        // Q^T
  C* output;          // O^T (value_dim, kQueries), not yet divided by the sum
  C* maximum;         // of the scores so far, in units of log2
  C* natural;         // the maximum in natural units, where it is huge
  C* sum;             // of the probabilities so far
  KeptTile<T>* kept;  // null: the weights are not wanted
  bool started;       // whether output holds anything yet
  int64_t first;
  int queries;

  int vectors() const { return static_cast<int>(ceil_div(queries, T::kLanes)); }
};

// Turns a chunk of scores, from the vector `first` on, into probabilities (those before are 0) and
// moves the running maximum and sum on. Returns whether what was made with the maximum so far has
// to be multiplied by `correction`. Rows from `keys` to a multiple of kRowStep get zeros. keep:
// null, or the flags of dropout. stays: the probabilities are kept in place of the scores.
//
// The maximum only keeps the exponents in range, so it moves on when it is behind by more than
// kBehind; then there is rarely anything to correct after the first tiles.
template <class T>
bool softmax_chunk(typename T::C* scores, int keys, const Factors<typename T::C>& factors,
                   const uint64_t* keep, int first, bool stays, QueryTile<T>& tile,
                   typename T::Probability* probabilities, typename T::C* correction) {
  using C = typename T::C;
  using V = Vec<C>;
  constexpr int kLanes = V::kLanes;
  constexpr C kBehind = 8;
  const int padded = static_cast<int>(round_up(keys, T::kRowStep)), vectors = tile.vectors();
  for (int j = keys; j < padded; ++j)
    for (int v = 0; v < vectors; ++v) store(scores + j * kQueries + v * kLanes, V(-kInfinity<C>));
  bool corrects = false;
  for (int v = 0; v < first; ++v) {
    for (int j = 0; j < padded; j += 2)
      T::store_pair(probabilities, j, v * kLanes, V(C(0)), V(C(0)));
    if (stays && !T::kChunksInPlace) zero_vectors(scores, padded, v, v + 1);
    store(correction + v * kLanes, V(C(1)));
  }
  for (int v = first; v < vectors; ++v) {
    const int column = v * kLanes;
    C* const s = scores + column;
    V most[2] = {load(s), load(s + kQueries)};
    for (int j = 2; j < padded; j += 2) {
      most[0] = greater(load(s + j * kQueries), most[0]);
      most[1] = greater(load(s + (j + 1) * kQueries), most[1]);
    }
    const V highest = greater(most[0], most[1]), now = highest * V(factors.log2);
    V maximum = load(tile.maximum + column), scale(C(1)), total = load(tile.sum + column);
    // A NaN moves the maximum, too.
    const auto moves = ~(now.v <= (maximum + V(kBehind)).v);
    if (any(moves)) {
      const V before = maximum;
      maximum = typename V::raw(moves ? now.v : before.v);
      scale = exp2_(before - maximum);
      total = total * scale;
      store(tile.maximum + column, maximum);
      corrects = true;
    }
    store(correction + column, scale);
    V factor(factors.log2);
    if (any_huge(maximum)) {
      // Here a maximum that was rounded on its own would be far from the (exact) products below.
      for (int j = 0; j < padded; ++j) {
        C* at = scores + j * kQueries + column;
        store(at, load(at) * factor);
      }
      factor = V(C(1));
      const V natural = highest * V(factors.natural);
      store(tile.natural + column,
            V(typename V::raw(moves ? natural.v : load(tile.natural + column).v)));
    }
    V sums[2] = {V(C(0)), V(C(0))};
    for (int j = 0; j < padded; j += 2) {
      V p[2];
      for (int i = 0; i < 2; ++i) {
        p[i] = T::exp2(load(s + (j + i) * kQueries) * factor - maximum);
        sums[i] += p[i];
        if (keep && j + i < keys) p[i] = where_bits(keep[j + i] >> column, p[i], C(0));
      }
      T::store_pair(probabilities, j, column, p[0], p[1]);
      if (!T::kChunksInPlace && stays)
        for (int i = 0; i < 2; ++i) store(s + (j + i) * kQueries, p[i]);
    }
    store(tile.sum + column, total + (sums[0] + sums[1]));
  }
  return corrects;
}

// What one callback works with.
template <class T>
struct ForwardScratch {
  using C = typename T::C;
  static constexpr int kTiles = 4;  // tiles of queries that share a pass over the keys

  ForwardScratch(const Problem& p, char* memory) {
    Carve carve(memory);
    for (QueryTile<T>& tile : tiles) {
      tile.right = carve.template take<char>(T::right_bytes(p.dim));
      tile.output = carve.template take<C>(T::padded_features(p.value_dim) * kQueries);
      tile.maximum = carve.template take<C>(kQueries);
      tile.natural = carve.template take<C>(kQueries);
      tile.sum = carve.template take<C>(kQueries);
      tile.kept = nullptr;
    }
    scores = carve.template take<C>((T::kChunksInPlace ? T::kTileKeys : T::kChunkKeys) * kQueries);
    bias = carve.template take<C>(p.bias.data ? T::kChunkKeys * kQueries : 0);
    probabilities = carve.template take<char>(T::probability_bytes());
    correction = carve.template take<C>(kQueries);
    rows = carve.template take<C>(kQueries * p.value_dim);
    allowed = carve.template take<uint64_t>(T::kTileKeys);
    keep = carve.template take<uint64_t>(T::kChunkKeys + 3);
    bytes = carve.taken();
  }

  QueryTile<T> tiles[kTiles];
  C *scores, *bias, *correction, *rows;
  char* probabilities;
  uint64_t *allowed, *keep;
  int64_t bytes;
};

template <class T>
class Forward {
 public:
  using S = typename T::Storage;
  using C = typename T::C;
  using V = Vec<C>;

  Forward(const ForwardCall& call, int64_t unit, const Place& place)
      : call_(call),
        p_(call.problem),
        b_(unit / p_.kv_heads),
        kv_head_(unit % p_.kv_heads),
        extent_(extent_of(p_, b_)),
        place_(place),
        scratch_(p_, place.own),
        keys_(p_, b_, kv_head_, extent_, place) {}

  // A block of queries of one head, kTiles tiles at most, with the probabilities kept.
  void run_kept(int64_t head, int64_t first, int64_t queries, KeptTile<T>* kept) {
    keys_.prepare();
    for (int64_t i = 0; i * kQueries < queries; ++i) scratch_.tiles[i].kept = kept + i;
    run_block(head, first, queries);
  }

  void run() {
    if (extent_.queries == 0) return;
    keys_.prepare();
    const int64_t group = p_.heads / p_.kv_heads;
    const int64_t block = block_queries(group);
    const int64_t blocks = ceil_div(extent_.queries, block);
    // The last queries first: with a causal mask they see the most keys.
    for (int64_t i; (i = place_.team.next.fetch_add(1)) < group * blocks;) {
      const int64_t first = (blocks - 1 - i / group) * block;
      run_block(kv_head_ * group + i % group, first, smaller(block, extent_.queries - first));
    }
  }

 private:
  // How many queries make a piece of work: enough to reuse the keys, and few enough that there is
  // something to do for everybody.
  int64_t block_queries(int64_t group) const {
    const int64_t tiles = ceil_div(extent_.queries, kQueries);
    const int64_t share = group * tiles / (4 * place_.team.members);
    const int64_t most = ForwardScratch<T>::kTiles;
    return kQueries * (place_.team.members == 1 ? most : larger<int64_t>(1, smaller(most, share)));
  }

  void run_block(int64_t head, int64_t first, int64_t queries) {
    const Rules<S> rules(p_, b_, head, extent_);
    const int tiles = static_cast<int>(ceil_div(queries, kQueries));
    Range all{extent_.keys, 0}, range[ForwardScratch<T>::kTiles];
    for (int i = 0; i < tiles; ++i) {
      QueryTile<T>& tile = scratch_.tiles[i];
      begin(tile, head, first + i * kQueries,
            static_cast<int>(smaller<int64_t>(kQueries, queries - i * kQueries)));
      range[i] = rules.keys_for(tile.first, tile.first + tile.queries);
      if (range[i].begin >= range[i].end) continue;
      range[i].begin = range[i].begin / T::kKeyStep * T::kKeyStep;
      all.begin = smaller(all.begin, range[i].begin);
      all.end = larger(all.end, range[i].end);
    }
    if (in_one_tile()) {
      for (int i = 0; i < tiles; ++i) run_alone(rules, head, scratch_.tiles[i], range[i]);
      return;
    }
    for (int64_t key = all.begin; key < all.end; key += T::kTileKeys)
      for (int i = 0; i < tiles; ++i) {
        const int64_t begin = larger(key, range[i].begin);
        const int64_t end = smaller<int64_t>(key + T::kTileKeys, range[i].end);
        if (begin < end) run_tile(rules, head, scratch_.tiles[i], begin, end);
      }
    for (int i = 0; i < tiles; ++i) {
      finish_sums(scratch_.tiles[i], head);
      store_output(scratch_.tiles[i], head);
    }
  }

  void begin(QueryTile<T>& tile, int64_t head, int64_t first, int queries) {
    tile.first = first;
    tile.queries = queries;
    const S* rows = rows_of<S>(p_.query, b_, head, extent_.first_query + first);
    T::fill_right(rows, p_.query.row, queries, p_.dim, tile.right);
    tile.started = false;
    if (tile.kept) tile.kept->count = 0;
    std::memset(tile.sum, 0, kQueries * sizeof(C));
    std::memset(tile.natural, 0, kQueries * sizeof(C));
    for (int q = 0; q < kQueries; ++q) tile.maximum[q] = kLeastExponent<C>;
  }

  // Whether one tile holds all keys, and its probabilities can be multiplied with the values as
  // rows: then nothing has to be transposed back.
  bool in_one_tile() const {
    return T::kInPlace && T::kChunksInPlace && extent_.keys <= T::kTileKeys &&
           p_.value_dim % T::kLanes == 0;
  }

  // A tile of queries where in_one_tile(): O = P V with P already divided by its sums.
  void run_alone(const Rules<S>& rules, int64_t head, QueryTile<T>& tile, const Range& range) {
    if constexpr (T::kInPlace) {
      const int vectors = tile.vectors(), keys = static_cast<int>(range.end - range.begin);
      const auto correct_rows = [&](int done) {
        for (int j = 0; j < done; ++j)
          multiply_row(scores_ + j * kQueries, scratch_.correction, vectors);
      };
      const bool nothing = keys <= 0 || make_probabilities(rules, head, tile, range.begin,
                                                           range.end, correct_rows) == Tile::kSkip;
      finish_sums(tile, head);
      if (tile.kept) tile.kept->is_scaled(range.begin, nothing ? 0 : keys);
      if (nothing) return store_output(tile, head);
      for (int j = 0; j < keys; ++j) multiply_row(scores_ + j * kQueries, tile.sum, vectors);
      const auto value = keys_.value();
      C* const output = output_rows(tile, head);
      product<true>(tile.queries, scores_, kQueries, keys, value.data + range.begin * value.stride,
                    value.stride, static_cast<int>(p_.value_dim / T::kLanes), output,
                    call_.output.row, false);
      if (keys_.has_non_finite())
        keys_.add_non_finite({tile.first, tile.queries, range.begin, keys}, allowed_, rules,
                             scores_, output, {1, call_.output.row});
    }
  }

  static void multiply_row(C* row, const C* by, int vectors) {
    for (int v = 0; v < vectors; ++v)
      store(row + v * T::kLanes, load(row + v * T::kLanes) * load(by + v * T::kLanes));
  }

  // The probabilities of a tile of keys, and then their product with the values.
  void run_tile(const Rules<S>& rules, int64_t head, QueryTile<T>& tile, int64_t begin,
                int64_t end) {
    const Rectangle r{tile.first, tile.queries, begin, static_cast<int>(end - begin)};
    int done = 0;  // keys whose probabilities have been used
    const Tile kind = make_probabilities(rules, head, tile, begin, end, [&](int at) {
      accumulate(rules, r, done, at, tile);
      done = at;
      correct(tile);
    });
    if (kind != Tile::kSkip) accumulate(rules, r, done, r.keys, tile);
  }

  // Chunk by chunk, scores and then probabilities, while they are in L1. correct(at): those of
  // the first `at` keys, and what was made of them, have to be multiplied by `correction`.
  template <class Correct>
  Tile make_probabilities(const Rules<S>& rules, int64_t head, QueryTile<T>& tile, int64_t begin,
                          int64_t end, Correct correct) {
    const Rectangle r{tile.first, tile.queries, begin, static_cast<int>(end - begin)};
    const Tile kind = rules.classify(r, scratch_.allowed);
    allowed_ = kind == Tile::kMixed ? scratch_.allowed : nullptr;
    if (kind == Tile::kSkip) return kind;
    scores_ = tile.kept ? tile.kept->probabilities + begin * kQueries : scratch_.scores;
    const bool in_place = T::kChunksInPlace || tile.kept;
    const int vectors = tile.vectors();
    for (int at = 0; at < r.keys; at += T::kChunkKeys) {
      const Rectangle chunk{r.first_query, r.queries, begin + at,
                            smaller(T::kChunkKeys, r.keys - at)};
      C* scores = scores_ + (in_place ? at * kQueries : 0);
      const int first = rules.first_query(chunk) / (2 * T::kLanes) * 2;  // in vectors
      T::scores(keys_.key(), chunk.first_key, chunk.keys, p_.dim, tile.right, first, vectors,
                scores);
      if (rules.transforms()) rules.transform(chunk, vectors, scores, scratch_.bias, nullptr);
      if (allowed_) Rules<S>::exclude(allowed_ + at, chunk.keys, vectors, scores);
      const uint64_t* keep = nullptr;
      if (p_.dropout.probability > 0)
        keep = keep_bits(p_.dropout, static_cast<uint32_t>(b_ * p_.heads + head), chunk.first_query,
                         chunk.queries, chunk.first_key, chunk.keys, scratch_.keep);
      if (softmax_chunk<T>(scores, chunk.keys, rules.factors(), keep, first, tile.kept != nullptr,
                           tile, probabilities(at), scratch_.correction))
        correct(at);
      if (tile.kept) tile.kept->add(chunk.first_key, chunk.keys, tile.maximum);
    }
    return kind;
  }

  typename T::Probability* probabilities(int key) const {
    return T::probabilities(scores_, scratch_.probabilities) + key * kQueries;
  }

  void correct(QueryTile<T>& tile) {
    if (!tile.started) return;
    for (int64_t f = 0; f < T::padded_features(p_.value_dim); ++f)
      for (int v = 0; v < tile.vectors(); ++v) {
        C* output = tile.output + f * kQueries + v * T::kLanes;
        store(output, load(output) * load(scratch_.correction + v * T::kLanes));
      }
  }

  // Adds the products of the tile's keys [from, to) with their values.
  void accumulate(const Rules<S>& rules, const Rectangle& r, int from, int to, QueryTile<T>& tile) {
    if (from == to) return;
    const Rectangle part{r.first_query, r.queries, r.first_key + from, to - from};
    T::accumulate(keys_.value(), part.first_key, part.keys, p_.value_dim, probabilities(from),
                  tile.vectors(), tile.output, tile.started);
    tile.started = true;
    if (keys_.has_non_finite())
      keys_.add_non_finite(part, allowed_ ? allowed_ + from : nullptr, rules, probabilities(from),
                           tile.output);
  }

  // Writes the log-sum-exp, and leaves in `sum` what the probabilities have to be multiplied with.
  void finish_sums(QueryTile<T>& tile, int64_t head) {
    const C kept = static_cast<C>(1 - p_.dropout.probability);
    for (int v = 0; v < tile.vectors(); ++v) {
      const int column = v * T::kLanes;
      V maximum = load(tile.maximum + column), sum = load(tile.sum + column), scale(C(1));
      V natural = maximum * V(static_cast<C>(kLn2));
      if (any_huge(maximum)) natural = huge_or(maximum, load(tile.natural + column), natural);
      if (p_.sinks) {
        const V natural_sink(static_cast<const C*>(p_.sinks)[head]);
        const V sink = natural_sink * V(static_cast<C>(kLog2e)), most = greater(sink, maximum);
        natural = V(typename V::raw(sink.v > maximum.v ? natural_sink.v : natural.v));
        scale = exp2_(maximum - most);
        sum = sum * scale + exp2_(sink - most);
      }
      const typename V::raw zero = {};
      const V inverse = scale / (sum * V(kept > 0 ? kept : C(1)));
      const V factor(typename V::raw(sum.v == zero ? zero : inverse.v));
      if (tile.kept) tile.kept->scale(column, maximum, factor);
      store(tile.sum + column, factor);
      const V lse = natural + log_(sum);
      store(tile.maximum + column, V(typename V::raw(sum.v == zero ? V(-kInfinity<C>).v : lse.v)));
    }
    if (!call_.lse) return;
    C* lse = static_cast<C*>(call_.lse) + b_ * call_.lse_batch + head * call_.lse_head +
             extent_.first_query + tile.first;
    std::memcpy(lse, tile.maximum, tile.queries * sizeof(C));
  }

  S* output_rows(const QueryTile<T>& tile, int64_t head) const {
    return rows_of<S>(call_.output, b_, head, extent_.first_query + tile.first);
  }

  void store_output(QueryTile<T>& tile, int64_t head) {
    if (!tile.started)  // no key at all
      std::memset(tile.output, 0, T::padded_features(p_.value_dim) * kQueries * sizeof(C));
    T::store_rows(tile.output, tile.sum, tile.queries, p_.value_dim, scratch_.rows,
                  output_rows(tile, head), call_.output.row);
  }

  const ForwardCall& call_;
  const Problem& p_;
  int64_t b_, kv_head_;
  Extent extent_;
  const Place& place_;
  ForwardScratch<T> scratch_;
  ForwardKeys<T> keys_;
  C* scores_;                          // of the tile of keys at work
  const uint64_t* allowed_ = nullptr;  // of the tile of keys at work; null: all
};

template <class T>
void forward(const ForwardCall& call, int64_t unit, Place place) {
  T::begin();
  Forward<T>(call, unit, place).run();
  T::end();
}

template <class T>
int64_t forward_own(const Problem& p) {
  return ForwardScratch<T>(p, nullptr).bytes;
}

template <class T>
int64_t forward_shared(const Problem& p, int) {
  return ForwardKeys<T>::bytes(p);
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
