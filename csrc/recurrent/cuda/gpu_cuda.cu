// What a layer's host side asks of CUDA: streams, and what a GPU can do.
#include "recurrent/cuda/layer.h"

namespace seqkern {

device::Stream stream_of(const Tensor& t) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

namespace {

GpuLimits limits_of(const Tensor& t) {
  const auto ask = [&](cudaDeviceAttr attribute) {
    int value = 0;
    device::check(cudaDeviceGetAttribute(&value, attribute, t.get_device_index()),
                  "a property of the GPU");
    return value;
  };
  return {ask(cudaDevAttrMultiProcessorCount), ask(cudaDevAttrMaxSharedMemoryPerBlockOptin),
          ask(cudaDevAttrCooperativeLaunch) != 0};
}

}  // namespace

LoopPlan plan_of(const LoopShape& shape, const Tensor& t) {
  return plan_loop(shape, limits_of(t));
}

int wave_of(const LoopShape& alone, const LoopShape& chained, int64_t layers,
            double projection_flops, const Tensor& t) {
  return plan_wave(alone, chained, layers, projection_flops, limits_of(t));
}

bool capturing(const Tensor& t) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  device::check(cudaStreamIsCapturing(stream_of(t), &status), "the state of a stream");
  return status != cudaStreamCaptureStatusNone;
}

}  // namespace seqkern
