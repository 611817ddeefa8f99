// The operator embedding_train_ on the CPU: word vectors' training loop over a piece of a corpus.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <memory>

#include "common/barrier.h"
#include "common/ceil_div.h"
#include "embedding/cpu/train_arguments_cpu.h"
#include "embedding/cpu/train_distance.h"
#include "embedding/cpu/train_stream.h"

namespace seqkern {
namespace {

constexpr int64_t kAlignment = 64;

struct Counts {
  int64_t words = 0, kept = 0, pairs = 0;
  double loss = 0;

  void add(const WindowStream& stream, double sum_of_losses) {
    words += stream.words_read();
    kept += stream.words_kept();
    pairs += stream.pairs();
    loss += sum_of_losses;
  }
};

// Windows of a batch: some thousands of context words, a fraction of L2.
int batch_windows(const TextOptions& text) {
  return std::clamp(2048 / text.window, 8, 256);
}

// Where part `part` of `parts` begins: parts have about the same number of tokens, and a sentence
// belongs to one of them.
int64_t part_begin(const TextOptions& text, int64_t part, int64_t parts) {
  if (part == parts) return text.count;
  int64_t at = static_cast<int64_t>(static_cast<__int128>(text.count) * part / parts);
  while (at > 0 && at < text.count && text.tokens[at - 1] >= 0) ++at;
  return at;
}

char* aligned(void* memory) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(memory);
  return reinterpret_cast<char*>(round_up(address, kAlignment));
}

Counts train_part(const TrainArguments& arguments, const TrainCall& call, int64_t part,
                  int64_t parts, uint64_t seed) {
  const TextOptions& text = arguments.text;
  const TrainKernels& kernels = train_kernels(arguments.storage);
  WindowStream stream(text, part_begin(text, part, parts), part_begin(text, part + 1, parts), seed,
                      static_cast<uint64_t>(part));
  // Not filled with zeros: copies of rows are megabytes, which are written anyway.
  const std::unique_ptr<char[]> memory(
      new char[static_cast<size_t>(kernels.scratch_bytes(call) + kAlignment)]);
  char* scratch = aligned(memory.get());
  double loss = 0;
  kernels.begin(call, scratch);
  for (const int most = batch_windows(text);;) {
    const Batch& batch = stream.next(most);
    if (batch.count == 0) break;
    loss += kernels.run(call, batch, scratch);
  }
  kernels.finish(call, scratch);
  Counts counts;
  counts.add(stream, loss);
  return counts;
}

// Deterministic training cuts the text into so many strands, however many threads there are. In
// each round every strand proposes the step of its next window, all from the tables as they stand,
// and then the steps are added in the strands' order. More strands: more work between two barriers,
// but more steps from the same tables.
constexpr int kStrands = 16;

struct Strand {
  WindowStream stream;
  std::vector<char> memory;
  char* scratch;
  const Batch* batch = nullptr;
  int window = 0;
  double loss = 0;

  bool finished() const { return batch->count == 0; }
};

std::vector<Counts> train_strands(const TrainArguments& arguments, int threads, uint64_t seed) {
  const TextOptions& text = arguments.text;
  const TrainCall& call = arguments.call;
  const TrainKernels& kernels = train_kernels(arguments.storage);
  const int most = batch_windows(text);
  std::vector<Strand> strands;
  strands.reserve(kStrands);
  for (int i = 0; i < kStrands; ++i) {
    const int64_t begin = part_begin(text, i, kStrands), end = part_begin(text, i + 1, kStrands);
    strands.push_back({WindowStream(text, begin, end, seed, static_cast<uint64_t>(i)),
                       std::vector<char>(static_cast<size_t>(kernels.scratch_bytes(call)) + 64),
                       nullptr});
    strands.back().scratch = aligned(strands.back().memory.data());
    kernels.begin(call, strands.back().scratch);
  }
  Barrier barrier(threads);
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    const int owned = static_cast<int>(end - begin);
    for (bool more = true; more;) {
      for (int i = 0; i < kStrands; ++i) {
        Strand& s = strands[i];
        if (i % threads < begin || i % threads >= end) continue;
        if (!s.batch || (!s.finished() && ++s.window == s.batch->count)) {
          s.batch = &s.stream.next(most);
          s.window = 0;
        }
        if (!s.finished()) s.loss += kernels.propose(call, *s.batch, s.window, s.scratch);
      }
      barrier.wait(owned);
      more = false;
      for (const Strand& s : strands) {
        if (s.finished()) continue;
        more = true;
        for (int64_t owner = begin; owner < end; ++owner)
          kernels.accept(call, *s.batch, s.window, s.scratch, static_cast<int>(owner), threads);
      }
      barrier.wait(owned);
    }
  });
  std::vector<Counts> counts(kStrands);
  for (int i = 0; i < kStrands; ++i) counts[i].add(strands[i].stream, strands[i].loss);
  return counts;
}

std::vector<Counts> train_parts(const TrainArguments& arguments, int64_t threads, uint64_t seed) {
  std::vector<Counts> parts(static_cast<size_t>(threads));
  DistanceProbe probe(arguments.depends_on_distance() ? threads : 0);
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    // Parts that one thread trains one after the other are not far from each other.
    const double distance = end - begin == 1 ? probe.round_trip(begin) : 0;
    const TrainCall call = arguments.call_at(distance);
    for (int64_t part = begin; part < end; ++part)
      parts[part] = train_part(arguments, call, part, threads, seed);
  });
  return parts;
}

// (4,) float64: words, kept, pairs, sum of losses.
Tensor embedding_train_(const Tensor& input_rows, const Tensor& output_rows, const Tensor& tokens,
                        const Tensor& keep, const OptionalTensor& noise_thresholds,
                        const OptionalTensor& noise_aliases, const OptionalTensor& path_offsets,
                        const OptionalTensor& path_nodes, const OptionalTensor& path_codes,
                        const OptionalTensor& bag_offsets, const OptionalTensor& bag_rows,
                        bool cbow, int64_t window, bool shrink_windows, int64_t negatives,
                        bool share_negatives, bool cbow_mean, double lr, double final_lr,
                        int64_t seed, int64_t threads, bool deterministic, bool compute_loss,
                        int64_t copies) {
  const TrainArguments arguments(
      input_rows, output_rows, tokens, keep,
      {noise_thresholds, noise_aliases, path_offsets, path_nodes, path_codes, bag_offsets, bag_rows,
       cbow, window, shrink_windows, negatives, share_negatives, cbow_mean, lr, final_lr, threads,
       deterministic, compute_loss, copies});
  const std::vector<Counts> parts =
      deterministic
          ? train_strands(arguments, static_cast<int>(std::min<int64_t>(threads, kStrands)),
                          static_cast<uint64_t>(seed))
          : train_parts(arguments, threads, static_cast<uint64_t>(seed));
  Counts all;
  for (const Counts& part : parts) {
    all.words += part.words;
    all.kept += part.kept;
    all.pairs += part.pairs;
    all.loss += part.loss;
  }
  const Tensor tally = empty({4}, ScalarType::Double);
  double* out = static_cast<double*>(tally.mutable_data_ptr());
  out[0] = static_cast<double>(all.words);
  out[1] = static_cast<double>(all.kept);
  out[2] = static_cast<double>(all.pairs);
  out[3] = all.loss;
  return tally;
}

// (threads,) float64: what each of so many threads measures of its distance from another.
Tensor embedding_thread_distances(int64_t threads) {
  check(threads >= 1 && threads <= kMostThreads, "threads should be between 1 and ", kMostThreads,
        ", but it is ", threads);
  const Tensor distances = empty({threads}, ScalarType::Double);
  double* out = static_cast<double*>(distances.mutable_data_ptr());
  DistanceProbe probe(threads);
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    out[begin] = end - begin == 1 ? probe.round_trip(begin) : 0;
    std::fill(out + begin + 1, out + end, 0.0);
  });
  return distances;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(seqkern, CPU, m) {
  m.impl("embedding_train_", TORCH_BOX(&embedding_train_));
}
STABLE_TORCH_LIBRARY_IMPL(seqkern, CompositeExplicitAutograd, m) {
  m.impl("embedding_thread_distances", TORCH_BOX(&embedding_thread_distances));
}

}  // namespace seqkern
