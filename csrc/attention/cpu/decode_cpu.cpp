#include "attention/cpu/decode_cpu.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

#include "attention/cpu/decode_kernels.h"
#include "attention/cpu/schedule.h"
#include "common/ceil_div.h"

namespace seqkern {

namespace {

// The general forward works on tiles of 64 queries of a head, so with few queries it computes
// mostly for nothing, and each head reads the keys again. Measured, AVX2 to AMX, with 64 to 4096
// keys: with one query of a head decoding is 1.4 to 7 times as fast (several heads a key/value
// head: 2 to 30), with 8 queries 0.7 to 3 times (1.4 in the mean), with 16 queries 0.6 to 1.7 times
// (0.9). Hence kMostDecodedQueries.

// One key/value head of one sequence, and which of the call's pieces are its.
struct Unit {
  int64_t batch, kv_head;
  int64_t first_key, end_key;  // what at least one query may see
  int64_t first_piece, pieces;

  int64_t keys() const { return end_key - first_key; }
};

std::vector<Unit> units_of(const Problem& p) {
  std::vector<Unit> units;
  units.reserve(static_cast<size_t>(p.batch * p.kv_heads));
  for (int64_t b = 0; b < p.batch; ++b) {
    const Extent extent = extent_of(p, b);
    if (extent.queries == 0) continue;
    const Band band = band_of(p, extent);
    const int64_t first = std::clamp<int64_t>(band.low, 0, extent.keys);
    const int64_t end = std::clamp(extent.queries + band.high, first, extent.keys);
    for (int64_t head = 0; head < p.kv_heads; ++head) units.push_back({b, head, first, end, 0, 0});
  }
  return units;
}

// Cuts every unit into pieces of `size` keys, and says how many there are in all.
int64_t cut(std::vector<Unit>& units, int64_t size) {
  int64_t pieces = 0;
  for (Unit& unit : units) {
    unit.first_piece = pieces;
    unit.pieces = ceil_div(unit.keys(), size);
    pieces += unit.pieces;
  }
  return pieces;
}

// The cuts depend on the call alone, not on the number of threads, so neither do the results. There
// are enough of them for many threads to get equal shares.
int64_t piece_size(int64_t keys, int64_t chunk) {
  constexpr int64_t kPieces = 32, kLeastKeys = 128;
  const int64_t size = std::max(kLeastKeys, ceil_div(keys, kPieces));
  return round_up(size, chunk);
}

int64_t bytes_of(Storage storage) {
  return storage == Storage::kDouble ? 8 : storage == Storage::kFloat ? 4 : 2;
}

// How many threads are worth reading so many bytes: a second one costs about as long as this much.
int64_t threads_worth(int64_t bytes) {
  constexpr int64_t kBytesWorthAThread = 128 << 10;
  if (bytes < 2 * kBytesWorthAThread) return 1;
  return std::min<int64_t>(torch::stable::get_num_threads(), bytes / kBytesWorthAThread);
}

int64_t bytes_read(const Problem& p, int64_t keys, Storage storage) {
  return keys * (p.dim + p.value_dim) * bytes_of(storage);
}

// Decodes on this thread where every unit is a single piece and not worth more: a call may be as
// small as what it takes to share it. Returns whether it did.
bool decode_alone(const ForwardCall& call, Storage storage) {
  const Problem& p = call.problem;
  if (p.packed()) return false;
  const Extent extent = extent_of(p, 0);
  const Band band = band_of(p, extent);
  const int64_t first = std::clamp<int64_t>(band.low, 0, extent.keys);
  const int64_t end = std::clamp(extent.queries + band.high, first, extent.keys);
  const int64_t keys = (end - first) * p.batch * p.kv_heads;
  const DecodeKernels& kernels = decode_kernels(storage);
  if (end - first > piece_size(keys, kernels.chunk) ||
      threads_worth(bytes_read(p, keys, storage)) > 1)
    return false;
  if (extent.queries == 0) return true;
  const int64_t rows = p.heads / p.kv_heads * p.queries, own = kernels.own_bytes(p, rows);
  const Scratch scratch(own + kernels.partial_bytes(p, rows));
  char* const partial = first < end ? scratch.data() + own : nullptr;
  for (int64_t b = 0; b < p.batch; ++b)
    for (int64_t head = 0; head < p.kv_heads; ++head) {
      if (partial) kernels.run(p, {b, head, first, end}, partial, scratch.data());
      kernels.finish(call, b, head, partial, scratch.data());
    }
  return true;
}

class Decoding {
 public:
  Decoding(const ForwardCall& call, Storage storage)
      : call_(call), p_(call.problem), kernels_(decode_kernels(storage)), units_(units_of(p_)) {
    for (const Unit& unit : units_) keys_ += unit.keys();
    piece_size_ = piece_size(keys_, kernels_.chunk);
    pieces_ = cut(units_, piece_size_);
    const int64_t rows = p_.heads / p_.kv_heads * p_.queries;
    own_bytes_ = kernels_.own_bytes(p_, rows);
    partial_bytes_ = kernels_.partial_bytes(p_, rows);
    slots_ = std::max<int64_t>(1, std::min(threads_worth(bytes_read(p_, keys_, storage)), pieces_));
  }

  void run() {
    if (units_.empty()) return;
    const Scratch scratch(slots_ * (own_bytes_ + partial_bytes_) + pieces_ * partial_bytes_);
    results_ = scratch.data();
    own_ = results_ + pieces_ * partial_bytes_;
    progress_.reset(new Progress[units_.size()]);
    for (size_t i = 0; i < units_.size(); ++i) progress_[i].unfinished = units_[i].pieces;
    if (slots_ == 1)
      run_slots(0, 1);
    else
      torch::stable::parallel_for(0, slots_, 1,
                                  [&](int64_t begin, int64_t end) { run_slots(begin, end); });
  }

 private:
  // The pieces of slots [begin, end), one after the other as they lie in memory. Results are folded
  // from the left, whoever does it: at once by who has the unit's first piece, so that its memory
  // stays in the cache, and the others by who finishes the unit's last piece.
  void run_slots(int64_t begin, int64_t end) {
    char* own = own_ + begin * (own_bytes_ + partial_bytes_);
    char* latest = own + own_bytes_;
    const int64_t first = begin * pieces_ / slots_, last = end * pieces_ / slots_;
    for (size_t i = 0; i < units_.size(); ++i) {
      const Unit& unit = units_[i];
      if (unit.pieces == 0 && begin == 0)
        kernels_.finish(call_, unit.batch, unit.kv_head, nullptr, own);
      const int64_t from = std::max(first - unit.first_piece, int64_t(0));
      const int64_t to = std::min(last - unit.first_piece, unit.pieces);
      if (from >= to) continue;
      for (int64_t piece = from; piece < to; ++piece) {
        const bool folds = from == 0 && piece > 0;
        const int64_t key = unit.first_key + piece * piece_size_;
        kernels_.run(p_, {unit.batch, unit.kv_head, key, std::min(key + piece_size_, unit.end_key)},
                     folds ? latest : result(unit, piece), own);
        if (folds) kernels_.fold(p_, rows_of(unit), result(unit, 0), latest);
      }
      Progress& progress = progress_[i];
      if (from == 0) progress.folded = to;
      if (progress.unfinished.fetch_sub(to - from, std::memory_order_acq_rel) == to - from) {
        for (int64_t piece = progress.folded; piece < unit.pieces; ++piece)
          kernels_.fold(p_, rows_of(unit), result(unit, 0), result(unit, piece));
        kernels_.finish(call_, unit.batch, unit.kv_head, result(unit, 0), own);
      }
    }
  }

  char* result(const Unit& unit, int64_t piece) const {
    return results_ + (unit.first_piece + piece) * partial_bytes_;
  }
  int64_t rows_of(const Unit& unit) const {
    return p_.heads / p_.kv_heads * extent_of(p_, unit.batch).queries;
  }

  struct Progress {
    std::atomic<int64_t> unfinished;
    int64_t folded;  // pieces that are in the first one's result
  };

  const ForwardCall& call_;
  const Problem& p_;
  const DecodeKernels& kernels_;
  std::vector<Unit> units_;
  int64_t keys_ = 0, piece_size_, pieces_, own_bytes_, partial_bytes_, slots_;
  char *results_, *own_;
  std::unique_ptr<Progress[]> progress_;
};

}  // namespace

bool decodes(const Problem& p) {
  return p.queries <= kMostDecodedQueries && p.dropout.probability == 0 && p.kv_heads > 0;
}

void decode(const ForwardCall& call, Storage storage) {
  if (!decode_alone(call, storage)) Decoding(call, storage).run();
}

}  // namespace seqkern
