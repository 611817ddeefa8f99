#include "embedding/cpu/train_stream.h"

#include <algorithm>

namespace seqkern {

namespace {

enum Purpose : uint64_t { kKeep, kWindow, kNoise, kPurposes };

// Words of a longest sentence; what is longer is cut, so that places fit an int and memory is
// bounded.
constexpr int kLongestSentence = 1 << 20;

// Windows whose negatives are drawn at once.
constexpr int kNoiseWindows = 64;

// For each place p the greatest q for which ids[q] stands again in (q, p] less than `reach` + 1
// places behind q; -1 if there is none. So [q, p] holds a repetition, as far as `reach` can see,
// just if latest[p] >= q.
void latest_repeats(const int32_t* ids, int count, int reach, int* latest) {
  for (int p = 0; p < count; ++p) latest[p] = -1;
  // By distance instead of by place: loops that the compiler vectorizes. The nearest comes last.
  for (int distance = std::min(reach, count - 1); distance > 0; --distance)
    for (int p = distance; p < count; ++p)
      latest[p] = ids[p] == ids[p - distance] ? p - distance : latest[p];
  for (int p = 1; p < count; ++p) latest[p] = std::max(latest[p], latest[p - 1]);
}

}  // namespace

WindowStream::WindowStream(const TextOptions& options, int64_t begin, int64_t end, uint64_t seed,
                           uint64_t part)
    : options_(options),
      begin_(begin),
      end_(end),
      position_(begin),
      keep_random_(seed, part * kPurposes + kKeep),
      window_random_(seed, part * kPurposes + kWindow),
      noise_random_(seed, part * kPurposes + kNoise) {}

const Batch& WindowStream::next(int most) {
  begin_batch(most);
  while (static_cast<int>(windows_.size()) < most) {
    if (centre_ == last_ && !read_sentence()) break;
    emit_centre();
  }
  const bool finished = centre_ == last_;
  batch_.windows = windows_.data();
  batch_.count = static_cast<int>(windows_.size());
  batch_.contexts = contexts_.data();
  batch_.context_weights = context_weights_.data();
  batch_.targets = targets_.data();
  batch_.labels = labels_.data();
  batch_.target_weights = target_weights_.data();
  batch_.words = words_.data() + base_;
  batch_.left = (finished ? last_ : std::max(first_, centre_ - options_.window)) - base_;
  return batch_;
}

void WindowStream::begin_batch(int most) {
  if (!windows_.empty()) batch_.entered = windows_.back().entered;
  batch_.entered -= batch_.left;
  batch_.first_word += batch_.left;
  base_ += batch_.left;
  // Words that have left make room when they are the greater part: each is moved once at most.
  if (base_ > static_cast<int>(words_.size()) / 2) {
    words_.erase(words_.begin(), words_.begin() + base_);
    repeated_.erase(repeated_.begin(), repeated_.begin() + base_);
    first_ -= base_;  // may be negative: the sentence's beginning has left
    centre_ -= base_;
    last_ -= base_;
    base_ = 0;
  }
  // The last centre may bring a window for each of its contexts.
  const size_t reach = 2 * static_cast<size_t>(options_.window);
  const size_t windows = most + reach;
  const size_t contexts = windows * reach, targets = windows * options_.max_targets;
  windows_.clear();
  windows_.reserve(windows);
  if (contexts_.size() < contexts) {
    contexts_.resize(contexts);
    context_weights_.resize(contexts);
  }
  if (targets_.size() < targets) {
    targets_.resize(targets);
    labels_.resize(targets);
    target_weights_.resize(targets);
  }
  contexts_used_ = targets_used_ = 0;
}

// Appends the next sentence that keeps two words or more; false when there is none.
bool WindowStream::read_sentence() {
  while (position_ < end_) {
    const int64_t sentence = position_;
    const int start = last_;
    int count = start;
    for (; position_ < end_; ++position_) {
      const int32_t word = options_.tokens[position_];
      if (word < 0 || count - start == kLongestSentence) break;
      if (count + options_.window >= static_cast<int>(words_.size())) {
        words_.resize(2 * static_cast<size_t>(count + options_.window) + 64);
        repeated_.resize(words_.size());
      }
      words_[count] = word;
      const uint64_t limit = static_cast<uint64_t>(options_.keep[word] * 4294967296.0f);
      count += keep_random_.next32() < limit;
    }
    read_ += position_ - sentence;
    kept_ += count - start;
    const int64_t length = position_ - sentence;
    position_ += position_ < end_ && options_.tokens[position_] < 0;  // the sentence end
    if (count - start < 2) continue;
    first_ = centre_ = start;
    last_ = count;
    const double span = static_cast<double>(end_ - begin_);
    const double slope = (options_.final_lr - options_.lr) / span;
    first_lr_ = options_.lr + slope * static_cast<double>(sentence - begin_);
    lr_step_ = slope * static_cast<double>(length) / (count - start);
    latest_repeats(words_.data() + start, count - start, 2 * options_.window,
                   repeated_.data() + start);
    return true;
  }
  return false;
}

// The window, or the windows, of the next centre word.
void WindowStream::emit_centre() {
  const int window = options_.window;
  const int size = options_.shrink_windows
                       ? 1 + static_cast<int>(window_random_.below(static_cast<uint32_t>(window)))
                       : window;
  const int low = std::max(first_, centre_ - size), high = std::min(last_ - 1, centre_ + size);
  const int first = contexts_used_, count = high - low;
  // As many as there can be on each side are copied, and those that are not wanted overwritten: a
  // number of steps that the processor foresees.
  int32_t* left = contexts_.data() + first;
  int32_t* right = left + (centre_ - low);
  const int32_t* words = words_.data();
  if (options_.ring) {
    const int offset = static_cast<int>(batch_.first_word) - base_;
    for (int i = 0; i < window; ++i) left[i] = (low + i + offset) & (options_.ring - 1);
    for (int i = 0; i < window; ++i) right[i] = (centre_ + 1 + i + offset) & (options_.ring - 1);
  } else {
    for (int i = 0; i < window; ++i) left[i] = words[low + i];
    for (int i = 0; i < window; ++i) right[i] = words[centre_ + 1 + i];
  }
  contexts_used_ = first + count;
  // CBOW adds its contexts up, so that repeated ones need nothing.
  const bool repeats = options_.ring == 0 && !options_.cbow && repeated_[high] >= low - first_;
  if (options_.share_negatives || options_.cbow) {
    pairs_ += options_.cbow ? 1 : count;
    emit_window(first, count, repeats);
  } else {
    pairs_ += count;
    for (int i = 0; i < count; ++i) emit_window(first + i, 1, false);
  }
  ++centre_;
}

void WindowStream::emit_window(int first_context, int contexts, bool repeats) {
  Window w{};
  w.first_context = first_context;
  w.contexts = contexts;
  w.entered = std::min(last_, centre_ + options_.window + 1) - base_;
  w.left = std::max(first_, centre_ - options_.window) - base_;
  w.lr = static_cast<float>(first_lr_ + lr_step_ * (centre_ - first_));
  const bool repeated_targets = draw_targets(words_[centre_], w);
  if (repeats || repeated_targets) merge_repeats(w);
  windows_.push_back(w);
}

// Appends a word's targets; whether one may be there twice.
bool WindowStream::draw_targets(int32_t word, Window& w) {
  w.first_target = targets_used_;
  if (!options_.noise) {
    take_path(word, w);
    return false;
  }
  const int negatives = options_.negatives;
  if (noise_used_ + negatives > static_cast<int>(noise_.size())) refill_noise();
  const int32_t* drawn = noise_.data() + noise_used_;
  int32_t* targets = targets_.data() + targets_used_;
  uint8_t* labels = labels_.data() + targets_used_;
  targets[0] = word;
  int count = 1;
  for (int i = 0; i < negatives; ++i) {
    targets[count] = drawn[i];
    count += drawn[i] != word;
  }
  for (int i = 1; i <= negatives; ++i) labels[i] = 0;
  labels[0] = 1;
  const bool repeats = noise_repeated_[noise_used_ + negatives - 1] >= noise_used_;
  noise_used_ += negatives;
  w.targets = count;
  targets_used_ += count;
  return repeats;
}

void WindowStream::take_path(int32_t word, Window& w) {
  const int64_t begin = options_.path_offsets[word];
  const int count = static_cast<int>(options_.path_offsets[word + 1] - begin);
  for (int i = 0; i < count; ++i) {
    targets_[targets_used_ + i] = options_.path_nodes[begin + i];
    labels_[targets_used_ + i] = 1 - options_.path_codes[begin + i];
  }
  w.targets = count;
  targets_used_ += count;
}

void WindowStream::refill_noise() {
  const int negatives = options_.negatives, count = kNoiseWindows * negatives;
  noise_.resize(count);
  noise_repeated_.resize(count);
  for (int i = 0; i < count; ++i) {
    const auto product = static_cast<unsigned __int128>(noise_random_.next()) * options_.noise_size;
    const uint32_t entry = static_cast<uint32_t>(product >> 64);
    const uint32_t fraction = static_cast<uint32_t>(static_cast<uint64_t>(product) >> 32);
    const AliasEntry e = options_.noise[entry];
    // Without a branch, which would be foreseen no better than a coin: all ones if the fraction is
    // below the threshold.
    const uint32_t below = -static_cast<uint32_t>((uint64_t{fraction} - e.threshold) >> 63);
    noise_[i] = static_cast<int32_t>(e.alias ^ ((e.alias ^ entry) & below));
  }
  latest_repeats(noise_.data(), count, negatives - 1, noise_repeated_.data());
  noise_used_ = 0;
}

namespace {

// Keeps each id's first occurrence and counts the others in its weight; the number that is left.
int merge(int32_t* ids, float* weights, uint8_t* labels, int count) {
  int kept = 0;
  for (int i = 0; i < count; ++i) {
    int j = 0;
    while (j < kept && ids[j] != ids[i]) ++j;
    if (j < kept) {
      weights[j] += 1;
      continue;
    }
    ids[kept] = ids[i];
    if (labels) labels[kept] = labels[i];
    weights[kept++] = 1;
  }
  return kept;
}

}  // namespace

void WindowStream::merge_repeats(Window& w) {
  w.weighted = true;
  int32_t* contexts = contexts_.data() + w.first_context;
  float* weights = context_weights_.data() + w.first_context;
  if (options_.ring == 0 && !options_.cbow)
    w.contexts = merge(contexts, weights, nullptr, w.contexts);
  else
    std::fill(weights, weights + w.contexts, 1.0f);
  w.targets = merge(targets_.data() + w.first_target, target_weights_.data() + w.first_target,
                    labels_.data() + w.first_target, w.targets);
}

}  // namespace seqkern
