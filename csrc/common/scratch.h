// Memory for the time of a call.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "common/ceil_div.h"
#include "common/tensors.h"

namespace seqkern {

// Aligned to cache lines. What is small lies on the stack or comes from malloc: a tensor takes
// longer to make than a small call's work.
class Scratch {
 public:
  explicit Scratch(int64_t bytes) {
    constexpr int64_t kMallocs = int64_t(1) << 20;
    if (bytes <= static_cast<int64_t>(sizeof(small_))) {
      data_ = small_;
    } else if (bytes <= kMallocs) {
      middle_.reset(
          std::aligned_alloc(kAlignment, static_cast<size_t>(round_up(bytes, kAlignment))));
      if (!middle_) throw std::bad_alloc();
      data_ = static_cast<char*>(middle_.get());
    } else {
      large_ = empty({bytes + kAlignment}, ScalarType::Byte);
      const uintptr_t address = reinterpret_cast<uintptr_t>(large_->mutable_data_ptr());
      data_ = reinterpret_cast<char*>(round_up(address, uintptr_t(kAlignment)));
    }
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  char* data() const { return data_; }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  static constexpr int64_t kAlignment = 64;

  alignas(kAlignment) char small_[16384];
  std::unique_ptr<void, Free> middle_;
  OptionalTensor large_;
  char* data_;
};

}  // namespace seqkern
