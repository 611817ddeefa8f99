// Products of tiles in shared memory by four warps together, a "group": a sum of 64 rows in
// registers gets the product of a tile of 64 rows and one of up to as many columns as registers
// hold.
//
// MmaTiles does it by mma.sync on every architecture, and on the emulator. WgmmaTiles
// (wgmma_tiles.cuh) does the same by wgmma, which only sm_90a has and the emulator lacks: same
// operands, same sums, so a kernel that takes one of them as a template parameter is tested with
// the other.
//
// A tile's rows have 128 bytes, kPanel<S> numbers, and lie as Swizzle::k128 says, which is how
// copy_tile() brings them and how both kinds of products read them without bank conflicts. Of
// matrices with longer rows there is a panel of all rows after the other. tile_offset() says where
// a number lies; the base is a multiple of 1024 bytes, the rows of one of 8.
#pragma once

#include "common/device.cuh"

namespace seqkern::device {

// Numbers of a tile's row: 64 of 16 bits, or 32 floats.
template <class S>
constexpr int kPanel = 128 / static_cast<int>(sizeof(S));

constexpr int kGroup = 4 * kWarp;  // threads
constexpr int kGroupRows = 64;

// Where the number at (row, column) of a matrix of `rows` rows lies, counted in numbers.
template <class S>
SEQKERN_HOST_DEVICE int tile_offset(int rows, int row, int column) {
  constexpr int kChunk = 16 / static_cast<int>(sizeof(S));
  const int panel = column / kPanel<S>, within = column % kPanel<S>;
  const int chunk = within / kChunk ^ row % 8;
  return (panel * rows + row) * kPanel<S> + chunk * kChunk + within % kChunk;
}

// A group's sum of 64 rows. This thread's values[j][i] is at row 16 * (its warp of the group) +
// sum_row(i) and column 8 * j + sum_column(i).
template <int columns>
struct GroupSum {
  static_assert(columns % 16 == 0, "a sum's columns are a multiple of 16");
  float values[columns / 8][4] = {};
};

// This thread's part of 64 rows of one panel, of 16-bit numbers, as the left operand in registers:
// registers[s] are those of columns [16 * s, 16 * s + 16), see matrix.cuh.
struct GroupOperand {
  uint32_t registers[4][4];
};

// A sum's columns [first, first + 64) as a left operand, rounded to S.
template <class S, int columns>
SEQKERN_DEVICE GroupOperand operand_of_sum(const GroupSum<columns>& sum, int first) {
  static_assert(sizeof(S) == 2 && columns >= 64, "64 columns of 16-bit numbers make an operand");
  GroupOperand operand;
  SEQKERN_UNROLL
  for (int step = 0; step < 4; ++step) {
    SEQKERN_UNROLL
    for (int half = 0; half < 2; ++half) {
      const float* four = sum.values[first / 8 + 2 * step + half];
      operand.registers[step][2 * half] = pack<S>(four[0], four[1]);
      operand.registers[step][2 * half + 1] = pack<S>(four[2], four[3]);
    }
  }
  return operand;
}

// S is bfloat16, float16 or float. Of a float the products read what tf32 has room for, so it is
// stored as to_tf32() rounds it.
//
// The order of a group's calls: those who wrote the tiles call publish() and then a barrier; then
// start(sum), products, commit(), and wait<0>(sum) before anyone reads the sum or writes the tiles
// again. wait<1>(sum) leaves what the last commit() closed under way. In a loop whose length the
// compiler does not know, each pass has a start() and a commit(), else wgmma goes step by step.
template <class S>
struct MmaTiles {
  static SEQKERN_DEVICE void publish() {}
  template <int columns>
  static SEQKERN_DEVICE void start(GroupSum<columns>&) {}
  static SEQKERN_DEVICE void commit() {}
  template <int pending, int columns>
  static SEQKERN_DEVICE void wait(GroupSum<columns>&) {}

  // sum += a b^T. a: one panel of 64 rows; b: one panel of `columns` rows.
  template <int columns>
  static SEQKERN_DEVICE void add_transposed(GroupSum<columns>& sum, const S* a, const S* b,
                                            Place place = here()) {
    SEQKERN_UNROLL
    for (int step = 0; step < 4; ++step) {
      uint32_t left[4];
      load_left(left, a, step, place);
      add_step_transposed(sum, left, b, step, place);
    }
  }

  template <int columns>
  static SEQKERN_DEVICE void add_transposed(GroupSum<columns>& sum, const GroupOperand& a,
                                            const S* b, Place place = here()) {
    static_assert(sizeof(S) == 2, "an operand in registers has 16-bit numbers");
    SEQKERN_UNROLL
    for (int step = 0; step < 4; ++step) {
      add_step_transposed(sum, a.registers[step], b, step, place);
    }
  }

  // sum += a b, for 16-bit numbers. b: 64 rows of `columns` numbers, a multiple of 64.
  template <int columns>
  static SEQKERN_DEVICE void add(GroupSum<columns>& sum, const S* a, const S* b,
                                 Place place = here()) {
    SEQKERN_UNROLL
    for (int step = 0; step < 4; ++step) {
      uint32_t left[4];
      load_left(left, a, step, place);
      add_step(sum, left, b, step, place);
    }
  }

  template <int columns>
  static SEQKERN_DEVICE void add(GroupSum<columns>& sum, const GroupOperand& a, const S* b,
                                 Place place = here()) {
    SEQKERN_UNROLL
    for (int step = 0; step < 4; ++step) add_step(sum, a.registers[step], b, step, place);
  }

 private:
  static constexpr int kChunk = 16 / static_cast<int>(sizeof(S));  // numbers that lie together

  // A step of the depth is 32 bytes of a row, two chunks. Lane i names a row of matrix i / 8:
  // matrices 0 and 2 are of the upper 8 rows, 0 and 1 of the first chunk.
  static SEQKERN_DEVICE void load_left(uint32_t (&left)[4], const S* a, int step, Place place) {
    const int matrix = lane() / 8;
    const int row = 16 * (warp() % 4) + lane() % 8 + 8 * (matrix % 2);
    const int column = kChunk * (2 * step + matrix / 2);
    load_matrix(left, a + tile_offset<S>(kGroupRows, row, column), place);
  }

  // Matrices 0 and 1 are the two chunks of one block of 8 columns, 2 and 3 of the next.
  template <int columns>
  static SEQKERN_DEVICE void add_step_transposed(GroupSum<columns>& sum, const uint32_t (&left)[4],
                                                 const S* b, int step, Place place) {
    const int matrix = lane() / 8;
    SEQKERN_UNROLL
    for (int j = 0; j < columns / 8; j += 2) {
      uint32_t right[4];
      const int row = 8 * (j + matrix / 2) + lane() % 8;
      const int column = kChunk * (2 * step + matrix % 2);
      load_matrix(right, b + tile_offset<S>(columns, row, column), place);
      const uint32_t first[2] = {right[0], right[1]}, second[2] = {right[2], right[3]};
      multiply_add<S>(sum.values[j], left, first, place);
      multiply_add<S>(sum.values[j + 1], left, second, place);
    }
  }

  // Matrices 0 and 1 are the upper and lower 8 rows of one block of 8 columns, 2 and 3 of the next.
  template <int columns>
  static SEQKERN_DEVICE void add_step(GroupSum<columns>& sum, const uint32_t (&left)[4], const S* b,
                                      int step, Place place) {
    static_assert(sizeof(S) == 2, "only 16-bit numbers are transposed on the way");
    static_assert(columns % 64 == 0, "b has whole panels");
    const int matrix = lane() / 8;
    SEQKERN_UNROLL
    for (int j = 0; j < columns / 8; j += 2) {
      uint32_t right[4];
      const int row = 16 * step + 8 * (matrix % 2) + lane() % 8;
      load_matrix_transposed(right, b + tile_offset<S>(kPanel<S>, row, 8 * (j + matrix / 2)),
                             place);
      const uint32_t first[2] = {right[0], right[1]}, second[2] = {right[2], right[3]};
      multiply_add<S>(sum.values[j], left, first, place);
      multiply_add<S>(sum.values[j + 1], left, second, place);
    }
  }
};

}  // namespace seqkern::device
