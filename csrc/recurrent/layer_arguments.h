// A recurrent layer call on any device: its arguments, checked, the order of its steps, and its
// results.
//
// In a header, because each of the operator libraries has code of its own.
#pragma once

#include <algorithm>
#include <vector>

#include "common/tensors.h"
#include "recurrent/kernels.h"

namespace seqkern {

// The arguments of a layer's forward and backward that mean the same for every cell. Tensors are
// made contiguous.
struct LayerArguments {
  Cell cell;
  Tensor input;
  OptionalTensor h0;
  Tensor w_ih, w_hh;
  OptionalTensor w_hr;
  OptionalTensor batch_sizes;
  bool reverse;
};

struct ForwardExtras {
  OptionalTensor c0, b_ih, b_hh, packed;
  bool save;
};

// Tensors that a cell does not have, or that are not saved, have no elements.
struct ForwardResult {
  Tensor output, h_n, c_n, gates, cells, hidden;
};

// Which gradients the caller wants; the bits of the operators' argument `needs`.
enum Needs : int64_t {
  kNeedsInput = 1,
  kNeedsH0 = 2,
  kNeedsC0 = 4,
  kNeedsInputWeights = 8,
  kNeedsStateWeights = 16,
  kNeedsBiases = 32,
  kNeedsProjection = 64,
};

struct BackwardExtras {
  OptionalTensor grad_output, grad_h_n, grad_c_n, c0;
  Tensor output, gates, cells,
      hidden;  // as the forward pass saved them; what a cell does not have is ignored
  int64_t needs;
};

// Gradients that were not asked for have no elements. grad_b_hh is grad_b_ih itself except for the
// GRU.
struct BackwardResult {
  Tensor grad_input, grad_h0, grad_c0, grad_w_ih, grad_w_hh, grad_b_ih, grad_b_hh, grad_w_hr;
};

class LayerCall {
 public:
  explicit LayerCall(const LayerArguments& arguments);

  Cell cell;
  Tensor input, w_ih, w_hh;
  OptionalTensor h0, w_hr;
  ScalarType dtype, compute_dtype;
  int gates;
  int64_t rows, batch, input_size;
  Sizes sizes;
  bool reverse, dense;
  std::vector<int64_t> active, offset;  // see Steps

  // input's leading dimensions and a last dimension of `features`.
  Shape shape_with(int64_t features) const;
  // (batch, features)
  Shape state_shape(int64_t features) const { return {batch, features}; }

  // t, if it is given, as a contiguous tensor of the right shape and dtype (the layer's, unless
  // another is named).
  OptionalTensor checked(const char* name, const OptionalTensor& t, const Shape& shape) const;
  OptionalTensor checked(const char* name, const OptionalTensor& t, const Shape& shape,
                         ScalarType type) const;

 private:
  void check_weights() const;
  void order_steps(const OptionalTensor& batch_sizes);

  Shape leading_;
};

inline int gates_of(Cell cell) {
  return cell == Cell::kLstm ? 4 : cell == Cell::kGru ? 3 : 1;
}

inline LayerCall::LayerCall(const LayerArguments& arguments)
    : cell(arguments.cell),
      input(as_contiguous(arguments.input)),
      w_ih(as_contiguous(arguments.w_ih)),
      w_hh(as_contiguous(arguments.w_hh)),
      w_hr(as_contiguous(arguments.w_hr)),
      dtype(input.scalar_type()),
      compute_dtype(dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float),
      gates(gates_of(cell)),
      reverse(arguments.reverse),
      dense(!arguments.batch_sizes) {
  check(input.dim() == 3 || input.dim() == 2, "input should have 2 or 3 dimensions, but it has ",
        input.dim());
  check(w_ih.dim() == 2 && w_hh.dim() == 2,
        "w_ih and w_hh should have 2 dimensions, but they have ", w_ih.dim(), " and ", w_hh.dim());
  check(dense || input.dim() == 2,
        "input should have the shape (total, features) where batch_sizes is given");
  leading_ = shape_of(input);
  leading_.pop_back();
  input_size = input.size(input.dim() - 1);
  rows = 1;
  for (int64_t n : leading_) rows *= n;
  sizes.hidden = w_hh.size(0) / gates;
  sizes.state = w_hh.size(1);
  check(sizes.hidden > 0 && sizes.state > 0,
        "w_hh should have at least one row a gate and one column, but it has the shape ",
        shape_text(w_hh));
  check_weights();
  order_steps(arguments.batch_sizes);
  check(!active.empty(), "input should have at least one time step");
  check(dense || arguments.h0.has_value(), "h0 should be given where batch_sizes is");
  h0 = checked("h0", arguments.h0, state_shape(sizes.state));
}

inline void LayerCall::check_weights() const {
  check_shape("w_ih", w_ih, {gates * sizes.hidden, input_size});
  check_shape("w_hh", w_hh, {gates * sizes.hidden, w_hr ? w_hr->size(0) : sizes.hidden});
  if (w_hr) check_shape("w_hr", *w_hr, {sizes.state, sizes.hidden});
  check(w_ih.scalar_type() == dtype && w_hh.scalar_type() == dtype &&
            (!w_hr || w_hr->scalar_type() == dtype),
        "the weights should have the dtype of input");
}

inline void LayerCall::order_steps(const OptionalTensor& batch_sizes) {
  if (dense) {
    const int64_t count = input.dim() == 3 ? leading_[0] : 1;
    batch = leading_.back();
    active.assign(count, batch);
  } else {
    check(batch_sizes->dim() == 1 && batch_sizes->scalar_type() == ScalarType::Long &&
              batch_sizes->is_cpu(),
          "batch_sizes should be a one-dimensional int64 tensor on the CPU");
    const Tensor contiguous_sizes = as_contiguous(*batch_sizes);
    const int64_t* begin = static_cast<const int64_t*>(contiguous_sizes.const_data_ptr());
    active.assign(begin, begin + contiguous_sizes.numel());
    batch = active.empty() ? 0 : active[0];
    int64_t total = 0;
    for (size_t t = 0; t < active.size(); ++t) {
      check(active[t] > 0 && active[t] <= (t ? active[t - 1] : active[0]),
            "batch_sizes should be positive and should not increase, but element ", t, " is ",
            active[t]);
      total += active[t];
    }
    check(total == rows, "batch_sizes should add up to input's ", rows,
          " rows, but they add up to ", total);
  }
  offset.resize(active.size());
  int64_t row = 0;
  for (size_t t = 0; t < active.size(); ++t) {
    offset[t] = row;
    row += active[t];
  }
  if (reverse) {
    std::reverse(active.begin(), active.end());
    std::reverse(offset.begin(), offset.end());
  }
}

inline Shape LayerCall::shape_with(int64_t features) const {
  Shape shape = leading_;
  shape.push_back(features);
  return shape;
}

inline OptionalTensor LayerCall::checked(const char* name, const OptionalTensor& t,
                                         const Shape& shape) const {
  return checked(name, t, shape, dtype);
}

inline OptionalTensor LayerCall::checked(const char* name, const OptionalTensor& t,
                                         const Shape& shape, ScalarType type) const {
  if (!t) return t;
  check_shape(name, *t, shape);
  check(t->scalar_type() == type, name,
        type == dtype ? " should have the dtype of input" : " should be float32");
  return as_contiguous(*t);
}

}  // namespace seqkern
