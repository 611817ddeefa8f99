// From tokens to windows: subsampling, sentence ends, window sizes, targets.
#pragma once

#include <vector>

#include "embedding/cpu/train_problem.h"
#include "embedding/cpu/train_random.h"

namespace seqkern {

class WindowStream {
 public:
  // Reads tokens [begin, end) of the text as if there were a sentence end on either side. `part`
  // tells apart the random numbers of the parts of one text.
  WindowStream(const TextOptions& options, int64_t begin, int64_t end, uint64_t seed,
               uint64_t part);

  // `most` windows or a few more; fewer, and in the end none, when the tokens are exhausted. Valid
  // until the next call.
  const Batch& next(int most);

  int64_t words_read() const { return read_; }  // without sentence ends
  int64_t words_kept() const { return kept_; }
  int64_t pairs() const { return pairs_; }

 private:
  void begin_batch(int most);
  bool read_sentence();
  void emit_centre();
  void emit_window(int first_context, int contexts, bool repeats);
  bool draw_targets(int32_t word, Window& window);
  void take_path(int32_t word, Window& window);
  void refill_noise();
  void merge_repeats(Window& window);

  const TextOptions options_;
  const int64_t begin_, end_;
  int64_t position_;
  Random keep_random_, window_random_, noise_random_;

  // The sentence that is being cut into windows: words_[first_, last_), the next centre, and how
  // the learning rate falls in it.
  std::vector<int32_t> words_;
  int first_ = 0, last_ = 0, centre_ = 0;
  double first_lr_ = 0, lr_step_ = 0;
  // latest_repeats of the words of the sentence, within two windows; from its first word on.
  std::vector<int> repeated_;

  // Negatives that have been drawn and not yet used, from noise_used_ on; latest_repeats of them.
  std::vector<int32_t> noise_;
  std::vector<int> noise_repeated_;
  int noise_used_ = 0;

  std::vector<Window> windows_;
  std::vector<int32_t> contexts_, targets_;
  std::vector<uint8_t> labels_;
  std::vector<float> context_weights_, target_weights_;
  int contexts_used_ = 0, targets_used_ = 0;
  int base_ = 0;  // words_[0, base_) have left
  Batch batch_{};
  int64_t read_ = 0, kept_ = 0, pairs_ = 0;
};

}  // namespace seqkern
