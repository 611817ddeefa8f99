// The arguments of the trainer's operator, checked and as its parts want them.
#pragma once

#include <vector>

#include "common/tensors.h"
#include "embedding/train_kernels.h"

namespace seqkern {

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
};

// A checked call: keeps what `text` and `call` point into.
class TrainArguments {
 public:
  TrainArguments(const Tensor& input_rows, const Tensor& output_rows, const Tensor& tokens,
                 const Tensor& keep, const TrainOptions& options);
  TrainArguments(const TrainArguments&) = delete;
  TrainArguments& operator=(const TrainArguments&) = delete;

  TextOptions text{};
  TrainCall call{};
  Storage storage;

 private:
  const void* kept(const char* name, const Tensor& t, ScalarType dtype);
  Table table(const char* name, const Tensor& t) const;
  void set_noise(const TrainOptions&, int64_t words, int64_t output_rows);
  void set_paths(const TrainOptions&, int64_t words, int64_t output_rows);
  void set_bags(const TrainOptions&, int64_t words, int64_t input_rows);
  void set_top_nodes(int64_t words, int64_t threads);
  void check_tokens(int64_t words) const;

  std::vector<Tensor> kept_;
  std::vector<AliasEntry> noise_;
  int lock_ = 0;
};

}  // namespace seqkern
