// All that a kernel in *_kernels.cuh may use of CUDA. Under a plain C++ compiler the same names
// lead to the emulator in tests/cuda_host, so every kernel is tested where there is no GPU.
//
// Memory is reached through load() and store() (numbers) or read() and write() (as it is), which
// the emulator checks against the bounds of the buffers. A `Place` as last argument is filled in by
// itself; only a helper function that takes one hands it on.
#pragma once

#include "common/device/arrivals.cuh"
#include "common/device/async_copy.cuh"
#include "common/device/atomics.cuh"
#include "common/device/barriers.cuh"
#include "common/device/bulk_copy.cuh"
#include "common/device/cluster.cuh"
#include "common/device/flags.cuh"
#include "common/device/functions.cuh"
#include "common/device/grid_barrier.cuh"
#include "common/device/launch.cuh"
#include "common/device/matrix.cuh"
#include "common/device/memory.cuh"
#include "common/device/numbers.cuh"
#include "common/device/platform.cuh"
#include "common/device/warp.cuh"
