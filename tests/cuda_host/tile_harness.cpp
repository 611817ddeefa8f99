// Products of tiles, as C functions for test_tile_product.py: on the emulator and on a GPU, and
// there by wgmma too.
#include "common/tile_product.cuh"
#include "harness.h"

#ifdef __CUDACC__
#include "common/wgmma_tiles.cuh"
#endif

using namespace seqkern;

namespace {

// Brings a matrix of `rows` rows into shared memory as panels.
template <class S>
SEQKERN_DEVICE void bring(S* tile, const S* matrix, int rows, int columns) {
  for (int i = device::thread(); i < rows * columns; i += device::threads()) {
    const int row = i / columns, column = i % columns;
    device::write(tile + device::tile_offset<S>(rows, row, column), device::read(matrix + i));
  }
}

template <int columns>
SEQKERN_DEVICE void write_sum(float* out, const device::GroupSum<columns>& sum) {
  for (int j = 0; j < columns / 8; ++j) {
    for (int i = 0; i < 4; ++i) {
      const int row = 16 * (device::warp() % 4) + device::sum_row(i);
      device::store(out + row * columns + 8 * j + device::sum_column(i), sum.values[j][i]);
    }
  }
}

// out (64, columns) = a (64, depth) b (columns, depth)^T, or b (depth, columns) if not transposed.
template <class Tiles, class S, int columns, bool transposed>
SEQKERN_KERNEL product(const S* a, const S* b, float* out, int depth) {
  SEQKERN_DYNAMIC_SHARED(S, left);
  constexpr int kPanel = device::kPanel<S>;
  S* const right = left + device::kGroupRows * depth;
  bring(left, a, device::kGroupRows, depth);
  if (transposed) {
    bring(right, b, columns, depth);
  } else {  // panels of the depth, each of all columns
    for (int first = 0; first < depth; first += kPanel) {
      bring(right + first * columns, b + first * columns, kPanel, columns);
    }
  }
  Tiles::publish();
  device::barrier();
  device::GroupSum<columns> sum;
  for (int first = 0; first < depth; first += kPanel) {
    Tiles::start(sum);
    const S* part = left + device::kGroupRows * first;
    if constexpr (transposed) {
      Tiles::add_transposed(sum, part, right + columns * first);
    } else {
      Tiles::add(sum, part, right + columns * first);
    }
    Tiles::commit();
    Tiles::template wait<0>(sum);
  }
  write_sum(out, sum);
}

// out (64, 64) = (a b^T) c or, if transposed, (a b^T) c^T: all are (64, 64), and the first product
// becomes an operand in registers.
template <class Tiles, class S, bool transposed>
SEQKERN_KERNEL two_products(const S* a, const S* b, const S* c, float* out) {
  SEQKERN_DYNAMIC_SHARED(S, tiles);
  constexpr int kTile = 64 * 64;
  bring(tiles, a, 64, 64);
  bring(tiles + kTile, b, 64, 64);
  bring(tiles + 2 * kTile, c, 64, 64);
  Tiles::publish();
  device::barrier();
  device::GroupSum<64> first, second;
  Tiles::start(first);
  Tiles::add_transposed(first, tiles, tiles + kTile);
  Tiles::commit();
  Tiles::template wait<0>(first);
  const device::GroupOperand operand = device::operand_of_sum<S>(first, 0);
  Tiles::start(second);
  if constexpr (transposed) {
    Tiles::add_transposed(second, operand, tiles + 2 * kTile);
  } else {
    Tiles::add(second, operand, tiles + 2 * kTile);
  }
  Tiles::commit();
  Tiles::template wait<0>(second);
  write_sum(out, second);
}

template <template <class> class Tiles, class S, int columns, bool transposed>
void run_product(const void* a, const void* b, float* out, int depth) {
  const size_t a_bytes = sizeof(S) * 64 * depth, b_bytes = sizeof(S) * columns * depth;
  const Buffer a_buffer("a", a, a_bytes), b_buffer("b", b, b_bytes);
  const Buffer out_buffer("out", out, 4 * 64 * columns);
  const device::Grid grid = {1, device::kGroup, static_cast<int>(a_bytes + b_bytes)};
  device::launch(product<Tiles<S>, S, columns, transposed>, grid, {}, static_cast<const S*>(a),
                 static_cast<const S*>(b), out, depth);
}

template <template <class> class Tiles, class S, bool transposed>
void run_two_products(const void* a, const void* b, const void* c, float* out) {
  constexpr size_t kBytes = sizeof(S) * 64 * 64;
  const Buffer a_buffer("a", a, kBytes), b_buffer("b", b, kBytes), c_buffer("c", c, kBytes);
  const Buffer out_buffer("out", out, 4 * 64 * 64);
  device::launch(two_products<Tiles<S>, S, transposed>, {1, device::kGroup, 3 * kBytes}, {},
                 static_cast<const S*>(a), static_cast<const S*>(b), static_cast<const S*>(c), out);
}

}  // namespace

#define PRODUCT(tiles, name, ...)                                                               \
  extern "C" void tiles##_product_##name(const void* a, const void* b, float* out, int depth) { \
    run_product<device::tiles##Tiles, __VA_ARGS__>(a, b, out, depth);                           \
  }
#define TWO_PRODUCTS(tiles, name, ...)                                                     \
  extern "C" void tiles##_two_products_##name(const void* a, const void* b, const void* c, \
                                              float* out) {                                \
    run_two_products<device::tiles##Tiles, __VA_ARGS__>(a, b, c, out);                     \
  }
#define ALL_PRODUCTS(tiles)                                            \
  PRODUCT(tiles, bfloat16_16_transposed, device::bfloat16, 16, true)   \
  PRODUCT(tiles, bfloat16_48_transposed, device::bfloat16, 48, true)   \
  PRODUCT(tiles, bfloat16_128_transposed, device::bfloat16, 128, true) \
  PRODUCT(tiles, bfloat16_128_plain, device::bfloat16, 128, false)     \
  PRODUCT(tiles, float16_64_transposed, device::float16, 64, true)     \
  PRODUCT(tiles, float16_64_plain, device::float16, 64, false)         \
  PRODUCT(tiles, float32_16_transposed, float, 16, true)               \
  PRODUCT(tiles, float32_64_transposed, float, 64, true)               \
  TWO_PRODUCTS(tiles, bfloat16_transposed, device::bfloat16, true)     \
  TWO_PRODUCTS(tiles, bfloat16_plain, device::bfloat16, false)         \
  TWO_PRODUCTS(tiles, float16_plain, device::float16, false)

// Where tile_offset() puts each number of a matrix: out (rows, columns).
extern "C" void tile_offsets(int bytes, int rows, int columns, int* out) {
  for (int i = 0; i < rows * columns; ++i) {
    const int row = i / columns, column = i % columns;
    out[i] = bytes == 2 ? device::tile_offset<device::bfloat16>(rows, row, column)
                        : device::tile_offset<float>(rows, row, column);
  }
}

ALL_PRODUCTS(Mma)
#ifdef __CUDACC__
ALL_PRODUCTS(Wgmma)
#endif
