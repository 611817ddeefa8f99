// The products of tile_product.cuh by wgmma, for sm_90a alone (PTX ISA, "Asynchronous Warpgroup
// Level Matrix Multiply-Accumulate Instructions"). Not for the emulator: kernels are tested with
// MmaTiles.
#pragma once

#include "common/tile_product.cuh"

#ifndef __CUDACC__
#error "the emulator has no wgmma: take MmaTiles"
#endif

// Elsewhere a kernel that gets here ends with an error.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SEQKERN_WGMMA(...) __VA_ARGS__
#else
#define SEQKERN_WGMMA(...) __trap()
#endif

namespace seqkern::device {

// A tile as wgmma wants it described (PTX ISA, "Matrix Descriptor Format"): its address in 16
// bytes, that 8 rows further on is 1024 bytes further on, and the swizzle over 128 bytes. The
// distance along the row is for matrices of more than one panel, which are multiplied panel by
// panel.
SEQKERN_DEVICE uint64_t wgmma_descriptor(const void* tile) {
  const uint64_t address = __cvta_generic_to_shared(tile) & 0x3ffff;
  return address >> 4 | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}

// One instruction: 64 rows, `columns` columns, 32 bytes of depth. The left operand comes from
// shared memory or (16-bit numbers) from registers; the right one is b^T's rows, or with `plain`
// b's.
template <class S, int columns>
struct Wgmma;

// clang-format off
#define SEQKERN_SUMS_4(s, j) \
  "+f"((s)[j][0]), "+f"((s)[j][1]), "+f"((s)[j][2]), "+f"((s)[j][3])
#define SEQKERN_SUMS_16(s) SEQKERN_SUMS_4(s, 0), SEQKERN_SUMS_4(s, 1)
#define SEQKERN_SUMS_32(s) SEQKERN_SUMS_16(s), SEQKERN_SUMS_4(s, 2), SEQKERN_SUMS_4(s, 3)
#define SEQKERN_SUMS_64(s) \
  SEQKERN_SUMS_32(s), SEQKERN_SUMS_4(s, 4), SEQKERN_SUMS_4(s, 5), SEQKERN_SUMS_4(s, 6), \
  SEQKERN_SUMS_4(s, 7)

#define SEQKERN_NAMES_16 \
  "{%0, %1, %2, %3, %4, %5, %6, %7}, "
#define SEQKERN_PAIR_16 "%8, %9"  // two descriptors
#define SEQKERN_LEFT_16 "{%8, %9, %10, %11}, %12"  // registers and one

#define SEQKERN_NAMES_32 \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
#define SEQKERN_PAIR_32 "%16, %17"  // two descriptors
#define SEQKERN_LEFT_32 "{%16, %17, %18, %19}, %20"  // registers and one

#define SEQKERN_NAMES_64 \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
#define SEQKERN_PAIR_64 "%32, %33"  // two descriptors
#define SEQKERN_LEFT_64 "{%32, %33, %34, %35}, %36"  // registers and one

#define SEQKERN_PLAIN_AFTER_PAIR_16 "%10"
#define SEQKERN_PLAIN_AFTER_LEFT_16 "%13"
#define SEQKERN_PLAIN_AFTER_PAIR_32 "%18"
#define SEQKERN_PLAIN_AFTER_LEFT_32 "%21"
#define SEQKERN_PLAIN_AFTER_PAIR_64 "%34"
#define SEQKERN_PLAIN_AFTER_LEFT_64 "%37"

#define SEQKERN_WGMMA_16_BIT(S, columns, type)                                             \
  template <>                                                                             \
  struct Wgmma<S, columns> {                                                              \
    template <bool plain>                                                                 \
    static SEQKERN_DEVICE void add(float (*sum)[4], uint64_t a, uint64_t b) {             \
      SEQKERN_WGMMA(asm volatile(                                                         \
          "wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." type "." type " "       \
          SEQKERN_NAMES_##columns SEQKERN_PAIR_##columns ", 1, 1, 1, 0, "                 \
          SEQKERN_PLAIN_AFTER_PAIR_##columns ";"                                          \
          : SEQKERN_SUMS_##columns(sum)                                                   \
          : "l"(a), "l"(b), "n"(int{plain})));                                            \
    }                                                                                     \
    template <bool plain>                                                                 \
    static SEQKERN_DEVICE void add(float (*sum)[4], const uint32_t (&a)[4], uint64_t b) { \
      SEQKERN_WGMMA(asm volatile(                                                         \
          "wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." type "." type " "       \
          SEQKERN_NAMES_##columns SEQKERN_LEFT_##columns ", 1, 1, 1, "                    \
          SEQKERN_PLAIN_AFTER_LEFT_##columns ";"                                          \
          : SEQKERN_SUMS_##columns(sum)                                                   \
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(int{plain})));        \
    }                                                                                     \
  }
#define SEQKERN_WGMMA_TF32(columns)                                                        \
  template <>                                                                             \
  struct Wgmma<float, columns> {                                                          \
    template <bool plain>                                                                 \
    static SEQKERN_DEVICE void add(float (*sum)[4], uint64_t a, uint64_t b) {             \
      static_assert(!plain, "only 16-bit numbers are transposed on the way");             \
      SEQKERN_WGMMA(asm volatile(                                                         \
          "wgmma.mma_async.sync.aligned.m64n" #columns "k8.f32.tf32.tf32 "                \
          SEQKERN_NAMES_##columns SEQKERN_PAIR_##columns ", 1, 1, 1;"                     \
          : SEQKERN_SUMS_##columns(sum)                                                   \
          : "l"(a), "l"(b)));                                                             \
    }                                                                                     \
  }

SEQKERN_WGMMA_16_BIT(bfloat16, 16, "bf16");
SEQKERN_WGMMA_16_BIT(bfloat16, 32, "bf16");
SEQKERN_WGMMA_16_BIT(bfloat16, 64, "bf16");
SEQKERN_WGMMA_16_BIT(float16, 16, "f16");
SEQKERN_WGMMA_16_BIT(float16, 32, "f16");
SEQKERN_WGMMA_16_BIT(float16, 64, "f16");
SEQKERN_WGMMA_TF32(16);
SEQKERN_WGMMA_TF32(32);
SEQKERN_WGMMA_TF32(64);
// clang-format on

template <class S>
struct WgmmaTiles {
  static SEQKERN_DEVICE void publish() { fence_async_proxy(); }
  template <int columns>
  static SEQKERN_DEVICE void start(GroupSum<columns>& sum) {
    pin(sum);
    SEQKERN_WGMMA(asm volatile("wgmma.fence.sync.aligned;" :: : "memory"));
  }
  static SEQKERN_DEVICE void commit() {
    SEQKERN_WGMMA(asm volatile("wgmma.commit_group.sync.aligned;" :: : "memory"));
  }
  template <int pending, int columns>
  static SEQKERN_DEVICE void wait(GroupSum<columns>& sum) {
    SEQKERN_WGMMA(asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory"));
    pin(sum);
  }

  template <int columns>
  static SEQKERN_DEVICE void add_transposed(GroupSum<columns>& sum, const S* a, const S* b) {
    SEQKERN_UNROLL
    for (int step = 0; step < 4; ++step) {
      add_step<false, columns>(sum.values, wgmma_descriptor(a + step * kStep), b + step * kStep);
    }
  }
  template <int columns>
  static SEQKERN_DEVICE void add_transposed(GroupSum<columns>& sum, const GroupOperand& a,
                                            const S* b) {
    SEQKERN_UNROLL
    for (int step = 0; step < 4; ++step) {
      add_step<false, columns>(sum.values, a.registers[step], b + step * kStep);
    }
  }
  template <int columns>
  static SEQKERN_DEVICE void add(GroupSum<columns>& sum, const S* a, const S* b) {
    SEQKERN_UNROLL
    for (int step = 0; step < 4; ++step) {
      add_step<true, columns>(sum.values, wgmma_descriptor(a + step * kStep),
                              b + step * 16 * kPanel<S>);
    }
  }
  template <int columns>
  static SEQKERN_DEVICE void add(GroupSum<columns>& sum, const GroupOperand& a, const S* b) {
    SEQKERN_UNROLL
    for (int step = 0; step < 4; ++step) {
      add_step<true, columns>(sum.values, a.registers[step], b + step * 16 * kPanel<S>);
    }
  }

 private:
  static constexpr int kStep = 32 / static_cast<int>(sizeof(S));  // numbers of 32 bytes of a row

  // As many columns as one instruction takes, then the others. 64 further columns are 64 rows of
  // b^T, or of b the next panel, which has 64 rows.
  template <bool plain, int columns, class Left>
  static SEQKERN_DEVICE void add_step(float (*sum)[4], const Left& a, const S* b) {
    constexpr int kColumns = columns >= 64 ? 64 : columns >= 32 ? 32 : 16;
    static_assert(!plain || columns % 64 == 0, "b has whole panels");
    Wgmma<S, kColumns>::template add<plain>(sum, a, wgmma_descriptor(b));
    if constexpr (columns > kColumns) {
      add_step<plain, columns - kColumns>(sum + kColumns / 8, a, b + kColumns * kPanel<S>);
    }
  }

  // The compiler does not know that wgmma goes on writing a sum's registers after the instruction:
  // this keeps it from moving what it does with them past start() and wait().
  template <int columns>
  static SEQKERN_DEVICE void pin(GroupSum<columns>& sum) {
    SEQKERN_UNROLL
    for (int j = 0; j < columns / 8; ++j) {
      SEQKERN_UNROLL
      for (int i = 0; i < 4; ++i) asm volatile("" : "+f"(sum.values[j][i])::"memory");
    }
  }
};

}  // namespace seqkern::device
