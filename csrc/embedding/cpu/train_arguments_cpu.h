// The arguments of the trainer's operator, checked and as its parts want them.
#pragma once

#include <vector>

#include "common/tensors.h"
#include "embedding/cpu/train_kernels.h"

namespace seqkern {

constexpr int64_t kMostThreads = 4096;

struct TrainOptions {
  OptionalTensor noise_thresholds, noise_aliases;
  OptionalTensor path_offsets, path_nodes, path_codes;
  OptionalTensor bag_offsets, bag_rows;
  bool cbow;
  int64_t window;
  bool shrink_windows;
  int64_t negatives;
  bool share_negatives, cbow_mean;
  double lr, final_lr;
  int64_t threads;
  bool deterministic, compute_loss;
  int64_t copies;  // of rows that several threads change: 1, 0, or -1 where that is faster
};

// A checked call: keeps what `text` and `call` point into.
class TrainArguments {
 public:
  TrainArguments(const Tensor& input_rows, const Tensor& output_rows, const Tensor& tokens,
                 const Tensor& keep, const TrainOptions& options);
  TrainArguments(const TrainArguments&) = delete;
  TrainArguments& operator=(const TrainArguments&) = delete;

  // The call of one of several threads, by how far it is from another (DistanceProbe).
  TrainCall call_at(double round_trip_ns) const;
  bool depends_on_distance() const { return may_copy_ && copies_ < 0; }

  TextOptions text{};
  TrainCall call{};  // without copies
  Storage storage;

 private:
  const void* kept(const char* name, const Tensor& t, ScalarType dtype);
  Table table(const char* name, const Tensor& t) const;
  void set_noise(const TrainOptions&, int64_t words, int64_t output_rows);
  void set_paths(const TrainOptions&, int64_t words, int64_t output_rows);
  void set_bags(const TrainOptions&, int64_t words, int64_t input_rows);
  void set_hot_rows(int64_t words, int64_t threads);
  void check_tokens(int64_t words) const;

  std::vector<Tensor> kept_;
  std::vector<AliasEntry> noise_;
  int64_t copies_;
  bool may_copy_;
  HotRows hot_input_{}, hot_output_{};  // all that may be copied
  std::vector<int> locks_;
};

}  // namespace seqkern
