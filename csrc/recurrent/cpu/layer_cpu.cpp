#include "recurrent/cpu/layer_cpu.h"

#include <algorithm>
#include <cstring>

#include "common/isa.h"

namespace seqkern {

PackedTag::PackedTag(Storage storage_, int64_t gates_, Sizes sizes)
    : isa(static_cast<int64_t>(isa_in_use())),
      storage(static_cast<int64_t>(storage_)),
      gates(gates_),
      hidden(sizes.hidden),
      state(sizes.state),
      reserved{} {}

Layer::Layer(const LayerArguments& arguments)
    : LayerCall(arguments), storage_(storage_of("input", dtype)) {
  if (!h0) h0 = zeros(state_shape(sizes.state), dtype);
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
  // Over rows no step waits, but every thread reads all weights: they must fit its L2 with room to
  // spare, and the rows must still fill the tiles.
  const int64_t bytes = weights * static_cast<int64_t>(input.element_size());
  const bool over_rows =
      dense && bytes <= (int64_t(3) << 18) && batch / std::min(threads, worth) >= 8;
  const int64_t most = over_rows ? batch : blocks;
  return {static_cast<int>(std::max<int64_t>(1, std::min({threads, worth, most}))), over_rows};
}

}  // namespace seqkern
