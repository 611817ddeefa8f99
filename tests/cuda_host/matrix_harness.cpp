// ldmatrix and mma as they are, lane by lane, for test_matrix.py: on the emulator and on a GPU.
#include "harness.h"

using namespace seqkern;

namespace {

constexpr device::Grid kOneWarp = {1, device::kWarp};

// a: (32, 4), b: (32, 2) registers; sum: (32, 4).
template <class S>
SEQKERN_KERNEL multiply(const uint32_t* a, const uint32_t* b, float* sum) {
  uint32_t left[4], right[2];
  float result[4];
  const int lane = device::lane();
  for (int i = 0; i < 4; ++i) left[i] = device::read(a + 4 * lane + i);
  for (int i = 0; i < 2; ++i) right[i] = device::read(b + 2 * lane + i);
  for (int i = 0; i < 4; ++i) result[i] = device::read(sum + 4 * lane + i);
  device::multiply_add<S>(result, left, right);
  for (int i = 0; i < 4; ++i) device::write(sum + 4 * lane + i, result[i]);
}

// tile: (8 * count, 8) elements; registers: (32, count). The row of matrix m that lane i names is
// the one that `rows` gives.
template <int count, bool transposed>
SEQKERN_KERNEL load(const uint16_t* tile, const int* rows, uint32_t* registers) {
  SEQKERN_SHARED(uint16_t, shared, 8 * 8 * count);
  for (int i = device::lane(); i < 64 * count; i += device::kWarp) {
    device::write(shared + i, device::read(tile + i));
  }
  device::warp_sync();
  const int lane = device::lane();
  // Lanes whose address does not matter give none.
  const uint16_t* row = lane < 8 * count ? shared + 8 * device::read(rows + lane) : nullptr;
  uint32_t mine[count];
  if (transposed) {
    device::load_matrix_transposed(mine, row);
  } else {
    device::load_matrix(mine, row);
  }
  for (int i = 0; i < count; ++i) device::write(registers + count * lane + i, mine[i]);
}

SEQKERN_KERNEL load_misaligned(uint32_t* registers) {
  SEQKERN_SHARED(uint16_t, shared, 8 * 8 + 8);
  for (int i = device::lane(); i < 72; i += device::kWarp) device::write(shared + i, uint16_t{0});
  device::warp_sync();
  uint32_t mine[1];
  device::load_matrix(mine, shared + 8 * (device::lane() % 8) + 4);
  device::write(registers + device::lane(), mine[0]);
}

SEQKERN_KERNEL load_from_global(const uint16_t* tile) {
  uint32_t mine[1];
  device::load_matrix(mine, tile + 8 * (device::lane() % 8));
}

template <class S>
void run_multiply(const uint32_t* a, const uint32_t* b, float* sum) {
  const Buffer a_buffer("a", a, 32 * 4 * 4), b_buffer("b", b, 32 * 2 * 4);
  const Buffer sum_buffer("sum", sum, 32 * 4 * 4);
  device::launch(multiply<S>, kOneWarp, {}, a, b, sum);
}

template <int count, bool transposed>
void run_load(const uint16_t* tile, const int* rows, uint32_t* registers) {
  const Buffer tile_buffer("tile", tile, 8 * 8 * 2 * count);
  const Buffer rows_buffer("rows", rows, 8 * 4 * count);
  const Buffer registers_buffer("registers", registers, 32 * 4 * count);
  device::launch(load<count, transposed>, kOneWarp, {}, tile, rows, registers);
}

}  // namespace

extern "C" {

void multiply_bfloat16(const uint32_t* a, const uint32_t* b, float* sum) {
  run_multiply<device::bfloat16>(a, b, sum);
}
void multiply_float16(const uint32_t* a, const uint32_t* b, float* sum) {
  run_multiply<device::float16>(a, b, sum);
}
void multiply_tf32(const uint32_t* a, const uint32_t* b, float* sum) {
  run_multiply<float>(a, b, sum);
}

void load_matrices(int count, bool transposed, const uint16_t* tile, const int* rows,
                   uint32_t* registers) {
  const auto load = transposed ? (count == 1   ? run_load<1, true>
                                  : count == 2 ? run_load<2, true>
                                               : run_load<4, true>)
                               : (count == 1   ? run_load<1, false>
                                  : count == 2 ? run_load<2, false>
                                               : run_load<4, false>);
  load(tile, rows, registers);
}

void run_load_misaligned() {
  uint32_t registers[32];
  const Buffer buffer("registers", registers, sizeof(registers));
  device::launch(load_misaligned, kOneWarp, {}, registers);
}

void run_load_from_global() {
  const uint16_t tile[64] = {};
  const Buffer buffer("tile", tile, sizeof(tile));
  device::launch(load_from_global, kOneWarp, {}, tile);
}

}  // extern "C"
