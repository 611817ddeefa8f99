// What the scores of one row go through when decoding. A row is one query of one head; its scores
// against a chunk of keys lie side by side.
#pragma once

#include "attention/cpu/rules.h"

namespace seqkern {
namespace SEQKERN_ISA {

// Rows of the sequence that has the most.
inline int64_t most_rows(const Problem& p) {
  return p.heads / p.kv_heads * p.queries;
}

// What is added to the scores of a chunk, minus infinity where a key is excluded.
struct TermsFound {
  bool allowed, excluded;  // whether the row may see some of the keys; whether it may not see some
};

template <class S>
class DecodeRow {
 public:
  using C = compute_t<S>;
  using V = Vec<C>;

  void set(const Problem& p, int64_t b, int64_t head, int64_t query, const Extent& extent) {
    const Band band = band_of(p, extent);
    keys_ = {larger<int64_t>(0, query + band.low), smaller(extent.keys, query + band.high + 1)};
    mask_ = nullptr;
    if (p.mask.data)
      mask_ = static_cast<const uint8_t*>(p.mask.data) + b * p.mask.batch + head * p.mask.head +
              query * p.mask.query;
    mask_key_ = p.mask.key;
    mask_excludes_ = p.mask_excludes;
    bias_ = nullptr;
    bias_is_float_ = p.bias_is_float;
    const int64_t element = bias_is_float_ ? sizeof(float) : sizeof(S);
    if (p.bias.data)
      bias_ = static_cast<const char*>(p.bias.data) +
              (b * p.bias.batch + head * p.bias.head + query * p.bias.query) * element;
    bias_key_ = p.bias.key;
    slope_ = p.slopes ? static_cast<const C*>(p.slopes)[b * p.slopes_batch + head] : C(0);
    has_slope_ = p.slopes != nullptr;
    position_ = query + extent.keys - extent.queries;
  }

  bool sees_all(int64_t first, int keys) const {
    return !mask_ && keys_.begin <= first && first + keys <= keys_.end;
  }
  bool has_terms(int64_t first, int keys) const {
    return bias_ || has_slope_ || !sees_all(first, keys);
  }
  bool same_terms(const DecodeRow& other) const {
    return mask_ == other.mask_ && bias_ == other.bias_ && !has_slope_ &&
           keys_.begin == other.keys_.begin && keys_.end == other.keys_.end;
  }

  bool excludes(int64_t key) const {
    return key < keys_.begin || key >= keys_.end ||
           (mask_ && !takes_part(mask_[key * mask_key_])) ||
           (bias_ && bias_at(key) == -kInfinity<C>);
  }

  TermsFound fill_terms(int64_t first, int keys, C* terms) const {
    if (has_slope_) {
      const C distance = static_cast<C>(position_ - first);
      for (int j = 0; j < keys; ++j) {
        const C d = distance - static_cast<C>(j);
        terms[j] = -slope_ * (d < 0 ? -d : d);
      }
    } else {
      for (int j = 0; j < keys; ++j) terms[j] = C(0);
    }
    if (bias_) add_bias(first, keys, terms);
    if (mask_) {
      const uint8_t* m = mask_ + first * mask_key_;
      if (mask_key_ == 1)  // the common case, in a form that the compiler vectorises
        for (int j = 0; j < keys; ++j) terms[j] = takes_part(m[j]) ? terms[j] : -kInfinity<C>;
      else
        for (int j = 0; j < keys; ++j)
          terms[j] = takes_part(m[j * mask_key_]) ? terms[j] : -kInfinity<C>;
    }
    for (int j = 0; j < keys && first + j < keys_.begin; ++j) terms[j] = -kInfinity<C>;
    for (int j = keys - 1; j >= 0 && first + j >= keys_.end; --j) terms[j] = -kInfinity<C>;
    int excluded = 0;
    for (int j = 0; j < keys; ++j) excluded += terms[j] == -kInfinity<C>;
    return {excluded < keys, excluded > 0};
  }

 private:
  bool takes_part(uint8_t flag) const { return (flag != 0) != mask_excludes_; }

  C bias_at(int64_t key) const {
    return bias_is_float_ ? static_cast<C>(static_cast<const float*>(bias_)[key * bias_key_])
                          : widen(static_cast<const S*>(bias_)[key * bias_key_]);
  }

  void add_bias(int64_t first, int keys, C* terms) const {
    if (bias_key_ != 1) {
      for (int j = 0; j < keys; ++j) terms[j] += bias_at(first + j);
    } else if (bias_is_float_) {
      const float* from = static_cast<const float*>(bias_) + first;
      for (int j = 0; j < keys; ++j) terms[j] += static_cast<C>(from[j]);
    } else {
      const S* from = static_cast<const S*>(bias_) + first;
      for (int j = 0; j < keys; ++j) terms[j] += widen(from[j]);
    }
  }

  Range keys_;
  const uint8_t* mask_;
  int64_t mask_key_;
  const void* bias_;
  int64_t bias_key_;
  bool mask_excludes_, bias_is_float_, has_slope_;
  C slope_;
  int64_t position_;  // of the query among the keys
};

}  // namespace SEQKERN_ISA
}  // namespace seqkern
