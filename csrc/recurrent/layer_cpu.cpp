#include "recurrent/layer_cpu.h"

#include <algorithm>
#include <cstring>

#include "common/isa.h"

namespace seqkern {

namespace {

int gates_of(Cell cell) {
  return cell == Cell::kLstm ? 4 : cell == Cell::kGru ? 3 : 1;
}

}  // namespace

PackedTag::PackedTag(Storage storage_, int64_t gates_, Sizes sizes)
    : isa(static_cast<int64_t>(isa_in_use())),
      storage(static_cast<int64_t>(storage_)),
      gates(gates_),
      hidden(sizes.hidden),
      state(sizes.state),
      reserved{} {}

Layer::Layer(const LayerArguments& arguments)
    : cell(arguments.cell),
      input(as_contiguous(arguments.input)),
      w_ih(as_contiguous(arguments.w_ih)),
      w_hh(as_contiguous(arguments.w_hh)),
      w_hr(as_contiguous(arguments.w_hr)),
      dtype(input.scalar_type()),
      compute_dtype(dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float),
      gates(gates_of(cell)),
      reverse(arguments.reverse),
      dense(!arguments.batch_sizes),
      storage_(storage_of("input", dtype)) {
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
        text(shape_of(w_hh)));
  check_weights();
  order_steps(arguments.batch_sizes);
  check(!active.empty(), "input should have at least one time step");
  check(dense || arguments.h0.has_value(), "h0 should be given where batch_sizes is");
  h0 = checked_or_zeros("h0", arguments.h0, state_shape(sizes.state));
}

void Layer::check_weights() const {
  check_shape("w_ih", w_ih, {gates * sizes.hidden, input_size});
  check_shape("w_hh", w_hh, {gates * sizes.hidden, w_hr ? w_hr->size(0) : sizes.hidden});
  if (w_hr) check_shape("w_hr", *w_hr, {sizes.state, sizes.hidden});
  check(w_ih.scalar_type() == dtype && w_hh.scalar_type() == dtype &&
            (!w_hr || w_hr->scalar_type() == dtype),
        "the weights should have the dtype of input");
}

void Layer::order_steps(const OptionalTensor& batch_sizes) {
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

RowRange Layer::rows_of(int64_t begin, int64_t end) const {
  const int64_t low = reverse ? end - 1 : begin, high = reverse ? begin : end - 1;
  return {offset[low], offset[high] + active[high] - offset[low]};
}

std::vector<int64_t> Layer::chunk_ends(int64_t most_rows) const {
  const int64_t count = static_cast<int64_t>(active.size());
  std::vector<int64_t> ends;
  int64_t rows_so_far = 0;
  for (int64_t s = 0; s < count; ++s) {
    if (rows_so_far > 0 && rows_so_far + active[s] > most_rows) {
      ends.push_back(s);
      rows_so_far = 0;
    }
    rows_so_far += active[s];
  }
  ends.push_back(count);
  return ends;
}

Shape Layer::shape_with(int64_t features) const {
  Shape shape = leading_;
  shape.push_back(features);
  return shape;
}

OptionalTensor Layer::checked(const char* name, const OptionalTensor& t, const Shape& shape) const {
  return checked(name, t, shape, dtype);
}

OptionalTensor Layer::checked(const char* name, const OptionalTensor& t, const Shape& shape,
                              ScalarType type) const {
  if (!t) return t;
  check_shape(name, *t, shape);
  check(t->scalar_type() == type, name,
        type == dtype ? " should have the dtype of input" : " should be float32");
  return as_contiguous(*t);
}

Tensor Layer::checked_or_zeros(const char* name, const OptionalTensor& t,
                               const Shape& shape) const {
  return t ? *checked(name, t, shape) : zeros(shape, dtype);
}

Tensor Layer::zeros(const Shape& shape, ScalarType type) const {
  Tensor t = empty(shape, type);
  if (t.numel()) std::memset(t.mutable_data_ptr(), 0, t.numel() * t.element_size());
  return t;
}

bool Layer::few_rows() const {
  if (active.size() == 1 && rows <= 32)
    return rows <= 4 || sizes.state >= 128;  // short dot products cost more than packing
  return rows <= 16;
}

Split Layer::split(int64_t blocks) const {
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t weights = gates * sizes.hidden * sizes.state;
  // A barrier costs about as much as ten thousand multiply-adds, entering a parallel region ten
  // times that.
  const int64_t with_input = few_rows() ? gates * sizes.hidden * input_size : 0;
  const int64_t work_per_step =
      (weights + with_input) * (rows / std::max<int64_t>(active.size(), 1));
  const int64_t least_per_slot = active.size() == 1 ? 100000 : 20000;
  const int64_t worth = std::max<int64_t>(1, work_per_step / least_per_slot);
  // Over rows no step waits, but every thread reads all weights: they must fit its second-level
  // cache with room to spare, and the rows must still fill the tiles.
  const int64_t bytes = weights * static_cast<int64_t>(input.element_size());
  const bool over_rows =
      dense && bytes <= (int64_t(3) << 18) && batch / std::min(threads, worth) >= 8;
  const int64_t most = over_rows ? batch : blocks;
  return {static_cast<int>(std::max<int64_t>(1, std::min({threads, worth, most}))), over_rows};
}

}  // namespace seqkern
