// Flags in global memory, by which blocks wait for one another: PTX ISA, "Memory Consistency
// Model".
//
// What a thread wrote before store_release (or add_release) of a flag is seen by the thread that
// reads that flag's new value with load_acquire. For what the other threads of the block wrote, a
// barrier() comes before the release, and one after the acquire for those that are to see it.
#pragma once

#include "common/device/atomics.cuh"

namespace seqkern::device {

#ifdef __CUDACC__

// T is int32_t, uint32_t or another type of 4 bytes.
template <class T>
SEQKERN_DEVICE T load_acquire(const T* p, Place = here()) {
  uint32_t bits;
  asm volatile("ld.acquire.gpu.global.b32 %0, [%1];" : "=r"(bits) : "l"(p) : "memory");
  return bit_cast<T>(bits);
}
template <class T>
SEQKERN_DEVICE void store_release(T* p, T value, Place = here()) {
  asm volatile("st.release.gpu.global.b32 [%0], %1;" ::"l"(p), "r"(bit_cast<uint32_t>(value))
               : "memory");
}
SEQKERN_DEVICE void add_release(uint32_t* p, uint32_t value, Place = here()) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(p), "r"(value) : "memory");
}

// Orders nothing, but never comes from a stale cache or a register (ld.relaxed.gpu).
template <class T>
SEQKERN_DEVICE T load_relaxed(const T* p, Place = here()) {
  uint32_t bits;
  asm volatile("ld.relaxed.gpu.global.b32 %0, [%1];" : "=r"(bits) : "l"(p) : "memory");
  return bit_cast<T>(bits);
}
template <class T>
SEQKERN_DEVICE void store_relaxed(T* p, T value, Place = here()) {
  asm volatile("st.relaxed.gpu.global.b32 [%0], %1;" ::"l"(p), "r"(bit_cast<uint32_t>(value))
               : "memory");
}

// Global or shared memory, in the order of the program as far as this thread is concerned.
template <class T>
SEQKERN_DEVICE T load_volatile(const T* p, Place = here()) {
  using Word = typename Bits<sizeof(T)>::type;
  const Word word = *reinterpret_cast<const volatile Word*>(p);
  return bit_cast<T>(word);
}
template <class T>
SEQKERN_DEVICE void store_volatile(T* p, T value, Place = here()) {
  using Word = typename Bits<sizeof(T)>::type;
  *reinterpret_cast<volatile Word*>(p) = bit_cast<Word>(value);
}

// What this thread wrote before is seen by the others of the scope before what it writes after.
template <Scope scope = Scope::kGpu>
SEQKERN_DEVICE void fence(Place = here()) {
  if constexpr (scope == Scope::kBlock) {
    __threadfence_block();
  } else if constexpr (scope == Scope::kGpu) {
    __threadfence();
  } else {
    __threadfence_system();
  }
}

#else

template <class T>
T load_ordered(const T* p, emulator::Order order, Place place) {
  static_assert(sizeof(T) == 4, "a flag has 4 bytes");
  emulator::check_global(p, place);
  return bit_cast<T>(emulator::poll<uint32_t>(p, order, place));
}
template <class T>
void store_ordered(T* p, T value, emulator::Order order, Place place) {
  emulator::begin_atomic(p, sizeof(T), place);
  const bool changed = std::memcmp(p, &value, sizeof(T)) != 0;
  *p = value;
  emulator::end_atomic(p, changed, order, false);
}

template <class T>
T load_acquire(const T* p, Place place = here()) {
  return load_ordered(p, emulator::Order::kAcquire, place);
}
template <class T>
void store_release(T* p, T value, Place place = here()) {
  static_assert(sizeof(T) == 4, "a flag has 4 bytes");
  emulator::check_global(p, place);
  store_ordered(p, value, emulator::Order::kRelease, place);
}
inline void add_release(uint32_t* p, uint32_t value, Place place = here()) {
  emulator::check_global(p, place);
  emulator::begin_atomic(p, sizeof(*p), place);
  *p += value;
  emulator::end_atomic(p, value != 0, emulator::Order::kRelease, true);
}
template <class T>
T load_relaxed(const T* p, Place place = here()) {
  return load_ordered(p, emulator::Order::kRelaxed, place);
}
template <class T>
void store_relaxed(T* p, T value, Place place = here()) {
  static_assert(sizeof(T) == 4, "a flag has 4 bytes");
  emulator::check_global(p, place);
  store_ordered(p, value, emulator::Order::kRelaxed, place);
}
template <class T>
T load_volatile(const T* p, Place place = here()) {
  using Word = typename Bits<sizeof(T)>::type;
  return bit_cast<T>(emulator::poll<Word>(p, emulator::Order::kRelaxed, place));
}
template <class T>
void store_volatile(T* p, T value, Place place = here()) {
  store_ordered(p, value, emulator::Order::kRelaxed, place);
}
template <Scope = Scope::kGpu>
void fence(Place = here()) {
  emulator::fence();
}

#endif

}  // namespace seqkern::device
