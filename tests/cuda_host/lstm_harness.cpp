// The LSTM's CUDA kernels on the emulator, as C functions for test_lstm_kernels.py.
#include "recurrent/lstm_kernels.cuh"

using namespace seqkern;

namespace {

template <class S>
void lstm_pointwise(const S* gates, const S* c, S* h, S* c_new, int64_t batch, int64_t hidden,
                    device::Grid grid) {
  const size_t bytes = sizeof(S) * batch * hidden;
  const emulator::Buffer gates_buffer("gates", gates, 4 * bytes), c_buffer("c", c, bytes);
  const emulator::Buffer h_buffer("h", h, bytes), c_new_buffer("c_new", c_new, bytes);
  device::launch(lstm_pointwise_kernel<S>, grid, {}, gates, c, h, c_new, batch, hidden);
}

}  // namespace

extern "C" {

void lstm_pointwise_float32(const float* gates, const float* c, float* h, float* c_new,
                            int64_t batch, int64_t hidden, int blocks, int threads) {
  lstm_pointwise(gates, c, h, c_new, batch, hidden, {blocks, threads});
}

void lstm_pointwise_float64(const double* gates, const double* c, double* h, double* c_new,
                            int64_t batch, int64_t hidden, int blocks, int threads) {
  lstm_pointwise(gates, c, h, c_new, batch, hidden, {blocks, threads});
}

void lstm_pointwise_bfloat16(const device::bfloat16* gates, const device::bfloat16* c,
                             device::bfloat16* h, device::bfloat16* c_new, int64_t batch,
                             int64_t hidden, int blocks, int threads) {
  lstm_pointwise(gates, c, h, c_new, batch, hidden, {blocks, threads});
}

}  // extern "C"
