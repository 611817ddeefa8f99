#include "embedding/cpu/train_arguments_cpu.h"

#include <algorithm>
#include <string>

namespace seqkern {

namespace {

constexpr int64_t kMostWindow = 10000, kMostNegatives = 10000;
constexpr int64_t kMostRows = int64_t(1) << 31;

const char* name_of(ScalarType type) {
  switch (type) {
    case ScalarType::Int:
      return "int32";
    case ScalarType::Long:
      return "int64";
    case ScalarType::Byte:
      return "uint8";
    case ScalarType::Float:
      return "float32";
    default:
      return "another dtype";
  }
}

void check_vector(const char* name, const Tensor& t, ScalarType dtype) {
  check(t.scalar_type() == dtype, name, " should be ", name_of(dtype));
  check(t.dim() == 1, name, " should have 1 dimension, but its shape is ", shape_text(t));
}

// Offsets of V + 1 ascending numbers from 0 to `total`; the longest part.
int64_t check_offsets(const char* name, const int64_t* offsets, int64_t words, int64_t total,
                      const char* of) {
  check(offsets[0] == 0, name, " should begin with 0, but it begins with ", offsets[0]);
  int64_t longest = 0;
  for (int64_t w = 0; w < words; ++w) {
    check(offsets[w + 1] >= offsets[w], name, " should not decrease, but element ", w + 1, " is ",
          offsets[w + 1], " after ", offsets[w]);
    longest = std::max(longest, offsets[w + 1] - offsets[w]);
  }
  check(offsets[words] == total, name, " should end with the number of ", of, ", ", total,
        ", but it ends with ", offsets[words]);
  return longest;
}

void check_range(const char* name, const int32_t* values, int64_t count, int64_t limit,
                 const char* of) {
  for (int64_t i = 0; i < count; ++i)
    check(values[i] >= 0 && values[i] < limit, name, " should be at least 0 and less than ", limit,
          ", ", of, ", but element ", i, " is ", values[i]);
}

// Whether the memory from a tensor's first to its last element reaches into the other's.
bool overlap(const Tensor& a, const Tensor& b) {
  if (a.numel() == 0 || b.numel() == 0) return false;
  const auto range = [](const Tensor& t) {
    const auto* begin = static_cast<const char*>(t.const_data_ptr());
    const int64_t elements = (t.size(0) - 1) * t.stride(0) + t.size(1);
    return std::pair{begin, begin + elements * t.element_size()};
  };
  const auto [a_begin, a_end] = range(a);
  const auto [b_begin, b_end] = range(b);
  return a_begin < b_end && b_begin < a_end;
}

}  // namespace

TrainArguments::TrainArguments(const Tensor& input_rows, const Tensor& output_rows,
                               const Tensor& tokens, const Tensor& keep,
                               const TrainOptions& options)
    : storage(storage_of("input_rows", input_rows.scalar_type())) {
  check(storage != Storage::kDouble, "input_rows should be float32 or bfloat16");
  check(output_rows.scalar_type() == input_rows.scalar_type(),
        "output_rows should have input_rows' dtype");
  call.input = table("input_rows", input_rows);
  call.output = table("output_rows", output_rows);
  call.dim = input_rows.size(1);
  check(call.dim > 0, "input_rows should have 1 column or more");
  check(output_rows.size(1) == call.dim, "output_rows should have input_rows' ", call.dim,
        " columns, but it has ", output_rows.size(1));

  check(!overlap(input_rows, output_rows), "input_rows and output_rows should not share memory");

  check_vector("keep", keep, ScalarType::Float);
  const int64_t words = keep.size(0);
  check(words < kMostRows, "keep should have less than 2^31 elements");
  text.tokens = static_cast<const int32_t*>(kept("tokens", tokens, ScalarType::Int));
  text.count = tokens.size(0);
  text.keep = static_cast<const float*>(kept("keep", keep, ScalarType::Float));
  for (int64_t w = 0; w < words; ++w)
    check(text.keep[w] >= 0 && text.keep[w] <= 1,
          "keep should hold probabilities between 0 and 1, but element ", w, " is ", text.keep[w]);

  check(options.window >= 1 && options.window <= kMostWindow, "window should be between 1 and ",
        kMostWindow, ", but it is ", options.window);
  check(options.threads >= 1, "threads should be 1 or more, but it is ", options.threads);
  check(options.threads <= kMostThreads, "threads should be at most ", kMostThreads, ", but it is ",
        options.threads);
  for (const auto& [name, lr] :
       {std::pair{"lr", options.lr}, std::pair{"final_lr", options.final_lr}})
    check(lr >= 0 && lr <= 1e30, name,
          " should be a finite number that is not negative, but it is ", lr);
  text.window = static_cast<int>(options.window);
  text.shrink_windows = options.shrink_windows;
  text.share_negatives = options.share_negatives;
  text.cbow = call.cbow = options.cbow;
  call.cbow_mean = options.cbow_mean;
  call.want_loss = options.compute_loss;
  call.deterministic = options.deterministic;
  text.lr = options.lr;
  text.final_lr = options.final_lr;

  const bool samples = options.noise_thresholds && options.noise_aliases;
  const bool walks = options.path_offsets && options.path_nodes && options.path_codes;
  check(samples != walks, "either noise (negative sampling) or paths (hierarchical softmax)",
        " should be given");
  if (samples)
    set_noise(options, words, output_rows.size(0));
  else
    set_paths(options, words, output_rows.size(0));
  set_bags(options, words, input_rows.size(0));
  call.max_contexts = 2 * text.window;
  call.max_targets = text.max_targets;
  copies_ = options.copies;
  may_copy_ = options.threads > 1 && !options.deterministic && copies_ != 0;
  if (may_copy_) set_hot_rows(words, options.threads);
  check_tokens(words);
}

const void* TrainArguments::kept(const char* name, const Tensor& t, ScalarType dtype) {
  check_vector(name, t, dtype);
  kept_.push_back(as_contiguous(t));
  return kept_.back().const_data_ptr();
}

Table TrainArguments::table(const char* name, const Tensor& t) const {
  check(t.dim() == 2, name, " should have the shape (rows, dim), but its shape is ", shape_text(t));
  check(t.size(1) <= 1 || t.stride(1) == 1, name, " should have contiguous rows");
  check(t.size(0) <= 1 || t.stride(0) >= t.size(1), name,
        " should have rows that do not overlap, but its stride is ", t.stride(0));
  check(t.size(0) < kMostRows, name, " should have less than 2^31 rows");
  return {t.mutable_data_ptr(), t.stride(0)};
}

void TrainArguments::set_noise(const TrainOptions& options, int64_t words, int64_t output_rows) {
  check(options.negatives >= 1 && options.negatives <= kMostNegatives,
        "negatives should be between 1 and ", kMostNegatives, ", but it is ", options.negatives);
  check(output_rows >= words, "output_rows should have a row for each of the ", words,
        " words, but it has ", output_rows);
  const auto* thresholds = static_cast<const uint32_t*>(
      kept("noise.thresholds", *options.noise_thresholds, ScalarType::Int));
  const auto* aliases =
      static_cast<const int32_t*>(kept("noise.aliases", *options.noise_aliases, ScalarType::Int));
  for (const auto& [name, t] : {std::pair{"noise.thresholds", &options.noise_thresholds},
                                std::pair{"noise.aliases", &options.noise_aliases}})
    check_shape(name, **t, {words});
  check_range("noise.aliases", aliases, words, words, "the number of words");
  noise_.resize(static_cast<size_t>(words));
  for (size_t w = 0; w < noise_.size(); ++w)
    noise_[w] = {thresholds[w], static_cast<uint32_t>(aliases[w])};
  text.noise = noise_.data();
  text.noise_size = static_cast<uint32_t>(words);
  text.negatives = static_cast<int>(options.negatives);
  text.max_targets = text.negatives + 1;
}

void TrainArguments::set_paths(const TrainOptions& options, int64_t words, int64_t output_rows) {
  text.path_offsets =
      static_cast<const int64_t*>(kept("paths.offsets", *options.path_offsets, ScalarType::Long));
  text.path_nodes =
      static_cast<const int32_t*>(kept("paths.nodes", *options.path_nodes, ScalarType::Int));
  text.path_codes =
      static_cast<const uint8_t*>(kept("paths.codes", *options.path_codes, ScalarType::Byte));
  check_shape("paths.offsets", *options.path_offsets, {words + 1});
  const int64_t total = options.path_nodes->size(0);
  check_shape("paths.codes", *options.path_codes, {total});
  const int64_t longest = check_offsets("paths.offsets", text.path_offsets, words, total, "nodes");
  check_range("paths.nodes", text.path_nodes, total, output_rows, "output_rows' number of rows");
  for (int64_t i = 0; i < total; ++i)
    check(text.path_codes[i] <= 1, "paths.codes should be 0 or 1, but element ", i, " is ",
          int(text.path_codes[i]));
  check(longest <= kMostNegatives, "paths should not be longer than ", kMostNegatives,
        ", but one has ", longest, " nodes");
  text.share_negatives = true;
  text.max_targets = static_cast<int>(longest);
}

// Words are taken to be numbered by falling frequency, and inner nodes as word2vec's Huffman tree
// numbers them: the rarest first, the root last. Others lose speed, nothing else.
void TrainArguments::set_hot_rows(int64_t words, int64_t threads) {
  // Most of the uses; and a row that a part of the text hardly uses is copied for nothing. Rarer
  // context words than these would hear of each other's steps too late.
  constexpr int64_t kTargetBytes = 4 << 20, kTokensARow = 16, kContexts = 1024;
  // A row's uses while all threads' copies of it, together, stay apart on average. A context word
  // has one use for all windows that it is within reach of.
  constexpr int64_t kTargetUses = 128, kContextUses = 32, kFewestUses = 4;
  const int64_t part = text.count / threads;
  const auto rows = [&](int64_t all, int64_t most) {
    return static_cast<uint32_t>(std::min({all, most, part / kTokensARow}));
  };
  const auto period = [&](int64_t uses) {
    return static_cast<int>(std::max(kFewestUses, uses / threads));
  };
  const int64_t row_bytes =
      std::max(call.output.stride, call.dim) * (storage == Storage::kFloat ? 4 : 2);
  int64_t outputs = words;
  if (text.path_nodes)  // every path begins at the root
    outputs = text.path_offsets[words] > 0 ? text.path_nodes[0] + int64_t{1} : 0;
  hot_output_.count = rows(outputs, kTargetBytes / row_bytes);
  hot_output_.period = period(kTargetUses);
  if (text.path_nodes) hot_output_.first = static_cast<int32_t>(outputs - hot_output_.count);
  if (!call.bag_offsets) {
    hot_input_.count = rows(words, kContexts);
    hot_input_.period = period(kContextUses);
  }
  locks_.assign(size_t{hot_input_.count} + hot_output_.count, 0);
  hot_input_.locks = locks_.data();
  hot_output_.locks = locks_.data() + hot_input_.count;
}

TrainCall TrainArguments::call_at(double round_trip_ns) const {
  // On an AMD EPYC (Zen 5) 45 to 60 ns between cores with an L3 in common, where
  // copies take more than they give, and 330 to 370 ns between others.
  constexpr double kFar = 180;
  // Near or far, all threads change the upper nodes of the tree at every window.
  constexpr uint32_t kUpperNodes = 256;
  TrainCall chosen = call;
  if (!may_copy_) return chosen;
  chosen.hot_output = hot_output_;
  if (copies_ > 0 || round_trip_ns > kFar) {
    chosen.hot_input = hot_input_;
    return chosen;
  }
  HotRows& hot = chosen.hot_output;
  const uint32_t count = text.path_nodes ? std::min(hot.count, kUpperNodes) : 0;
  hot.locks += hot.count - count;
  hot.first += static_cast<int32_t>(hot.count - count);
  hot.count = count;
  return chosen;
}

void TrainArguments::set_bags(const TrainOptions& options, int64_t words, int64_t input_rows) {
  check(options.bag_offsets.has_value() == options.bag_rows.has_value(),
        "bags.offsets and bags.rows should both be given or both be missing");
  if (!options.bag_offsets) {
    check(input_rows >= words, "input_rows should have a row for each of the ", words,
          " words, but it has ", input_rows);
    return;
  }
  call.bag_offsets =
      static_cast<const int64_t*>(kept("bags.offsets", *options.bag_offsets, ScalarType::Long));
  call.bag_rows =
      static_cast<const int32_t*>(kept("bags.rows", *options.bag_rows, ScalarType::Int));
  check_shape("bags.offsets", *options.bag_offsets, {words + 1});
  const int64_t total = options.bag_rows->size(0);
  check_offsets("bags.offsets", call.bag_offsets, words, total, "rows in bags");
  check_range("bags.rows", call.bag_rows, total, input_rows, "input_rows' number of rows");
  // Within reach of a window; in deterministic training the words of the last sentence give back
  // their steps only after those of the next have come.
  const int places = (options.deterministic ? 4 : 2) * (text.window + 1);
  int ring = 1;
  while (ring < places) ring *= 2;
  text.ring = call.ring = ring;
}

// Before anything is written: a bad id leaves the tables as they were.
void TrainArguments::check_tokens(int64_t words) const {
  // Without branches, so that it runs at the speed of memory.
  constexpr int64_t kPiece = 4096;
  const uint32_t limit = static_cast<uint32_t>(words);
  for (int64_t begin = 0; begin < text.count; begin += kPiece) {
    const int64_t end = std::min(text.count, begin + kPiece);
    uint32_t bad = 0;
    for (int64_t i = begin; i < end; ++i)
      bad |= static_cast<uint32_t>(text.tokens[i] + uint32_t{1}) > limit;
    if (!bad) continue;
    for (int64_t i = begin; i < end; ++i)
      check(text.tokens[i] >= -1 && text.tokens[i] < words, "tokens should be words, from 0 to ",
            words - 1, ", or -1, but element ", i, " is ", text.tokens[i]);
  }
}

}  // namespace seqkern
