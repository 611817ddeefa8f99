#pragma once
// Where the bytes of a text come from.

#include <atomic>
#include <cstddef>
#include <string>

namespace seqkern::text {

class Source {
 public:
  virtual ~Source() = default;

  // Puts up to `length` bytes at `target` and returns how many; 0 only at the end of the text or
  // once cancelled. One thread at a time calls it.
  virtual size_t read(char* target, size_t length, const std::atomic<bool>& cancelled) = 0;
};

// An open file, from its position on. It is read, not mapped: one that shrinks meanwhile ends early
// and raises no signal.
class DescriptorSource : public Source {
 public:
  // The caller keeps the descriptor open. `beginning` was taken from it already and comes first.
  // Everything throws FileError.
  DescriptorSource(int descriptor, std::string beginning);

  size_t read(char* target, size_t length, const std::atomic<bool>& cancelled) override;

 private:
  int descriptor_;
  std::string beginning_;
  bool regular_;
};

}  // namespace seqkern::text
