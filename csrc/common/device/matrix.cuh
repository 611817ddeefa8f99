// The tensor cores' products of one warp, and the loads that bring their operands into registers.
//
// multiply_add<S> adds a (16, depth) times (depth, 8) product to a (16, 8) sum in float32, with
// depth 16 for float16 and bfloat16 (PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating
// point type") and 8 for float, of which the tensor cores read no more than tf32 ("Matrix Fragments
// for mma.m16n8k8"; to_tf32 rounds, else the lower 13 bits are cut off).
//
// Which elements a lane holds, with group = lane / 4 and member = lane % 4:
//   sum[i]   row group + 8 * (i / 2), column 2 * member + i % 2
//   a[i]     16-bit: row group + 8 * (i % 2), columns 2 * member + 8 * (i / 2) and the next one
//            float:  row group + 8 * (i % 2), column member + 4 * (i / 2)
//   b[i]     16-bit: rows 2 * member + 8 * i and the next one, column group
//            float:  row member + 4 * i, column group
#pragma once

#include "common/device/launch.cuh"
#include "common/device/numbers.cuh"

namespace seqkern::device {

constexpr int kMatrixRows = 16;
constexpr int kMatrixColumns = 8;
template <class S>
constexpr int kMatrixDepth = sizeof(S) == 2 ? 16 : 8;

// Where this lane's sum[i] stands.
SEQKERN_DEVICE int sum_row(int i) {
  return lane() / 4 + 8 * (i / 2);
}
SEQKERN_DEVICE int sum_column(int i) {
  return 2 * (lane() % 4) + i % 2;
}

// load_matrix brings `count` (1, 2 or 4) matrices of 8 rows of 16 bytes from shared memory: lane i
// names row i % 8 of matrix i / 8, at a multiple of 16 bytes (of lanes beyond 8 * count the address
// is not looked at), and registers[m] is the lane's part of matrix m: of row lane / 4 the four
// bytes from 4 * (lane % 4) on. load_matrix_transposed gives 16-bit elements the other way round:
// of column lane / 4 the rows 2 * (lane % 4) and the next one. (PTX ISA, "ldmatrix".)

#ifdef __CUDACC__

SEQKERN_DEVICE void multiply_add(bfloat16*, float (&sum)[4], const uint32_t (&a)[4],
                                 const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
SEQKERN_DEVICE void multiply_add(float16*, float (&sum)[4], const uint32_t (&a)[4],
                                 const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
SEQKERN_DEVICE void multiply_add(float*, float (&sum)[4], const uint32_t (&a)[4],
                                 const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <class S>
SEQKERN_DEVICE void multiply_add(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                 Place = here()) {
  multiply_add(static_cast<S*>(nullptr), sum, a, b);
}

SEQKERN_DEVICE void load_matrix(uint32_t (&registers)[1], const void* row, Place = here()) {
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
               : "=r"(registers[0])
               : "r"(at)
               : "memory");
}
SEQKERN_DEVICE void load_matrix(uint32_t (&registers)[2], const void* row, Place = here()) {
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(registers[0]), "=r"(registers[1])
               : "r"(at)
               : "memory");
}
SEQKERN_DEVICE void load_matrix(uint32_t (&registers)[4], const void* row, Place = here()) {
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
               : "r"(at)
               : "memory");
}
SEQKERN_DEVICE void load_matrix_transposed(uint32_t (&registers)[1], const void* row,
                                           Place = here()) {
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
               : "=r"(registers[0])
               : "r"(at)
               : "memory");
}
SEQKERN_DEVICE void load_matrix_transposed(uint32_t (&registers)[2], const void* row,
                                           Place = here()) {
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(registers[0]), "=r"(registers[1])
               : "r"(at)
               : "memory");
}
SEQKERN_DEVICE void load_matrix_transposed(uint32_t (&registers)[4], const void* row,
                                           Place = here()) {
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
               : "r"(at)
               : "memory");
}

#else

inline emulator::Operand operand_of(bfloat16*) {
  return emulator::Operand::kBfloat16;
}
inline emulator::Operand operand_of(float16*) {
  return emulator::Operand::kFloat16;
}
inline emulator::Operand operand_of(float*) {
  return emulator::Operand::kTf32;
}

template <class S>
void multiply_add(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                  Place place = here()) {
  emulator::multiply_add(operand_of(static_cast<S*>(nullptr)), sum, a, b, place);
}

template <int count>
void load_matrix(uint32_t (&registers)[count], const void* row, Place place = here()) {
  static_assert(count == 1 || count == 2 || count == 4, "ldmatrix loads 1, 2 or 4 matrices");
  emulator::load_matrix(registers, count, false, row, place);
}
template <int count>
void load_matrix_transposed(uint32_t (&registers)[count], const void* row, Place place = here()) {
  static_assert(count == 1 || count == 2 || count == 4, "ldmatrix loads 1, 2 or 4 matrices");
  emulator::load_matrix(registers, count, true, row, place);
}

#endif

}  // namespace seqkern::device
