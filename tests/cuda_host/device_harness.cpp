// Conversions of csrc/common/device.cuh on the emulator, as C functions for test_device.py.
#include "common/device.cuh"

using namespace seqkern;

namespace {

template <class From, class To>
SEQKERN_KERNEL convert(const From* from, To* to, int64_t count) {
  for (int64_t i = device::grid_thread(); i < count; i += device::grid_threads()) {
    device::store(to + i, device::load(from + i));
  }
}

template <class From, class To>
void run(const From* from, To* to, int64_t count) {
  const emulator::Buffer from_buffer("from", from, sizeof(From) * count);
  const emulator::Buffer to_buffer("to", to, sizeof(To) * count);
  device::launch(convert<From, To>, {4, 64}, {}, from, to, count);
}

}  // namespace

extern "C" void to_bfloat16(const float* from, device::bfloat16* to, int64_t count) {
  run(from, to, count);
}

extern "C" void from_bfloat16(const device::bfloat16* from, float* to, int64_t count) {
  run(from, to, count);
}
