// Plain reads and writes of global and shared memory, up to 128 bits at once, and the declaration
// of shared memory.
#pragma once

#include <type_traits>

#include "common/device/platform.cuh"

// An array that all threads of the block see, unset at the start: `type name[count]`.
#ifdef __CUDACC__
#define SEQKERN_SHARED(type, name, count) __shared__ __align__(16) type name[count]
#else
#define SEQKERN_SHARED(type, name, count) \
  type* const name = static_cast<type*>(  \
      emulator::shared_memory(#name, sizeof(type) * (count), {__FILE__, __LINE__}))
#endif

// The Grid::dynamic_shared bytes of the block, as `type* name`, aligned to 1024 bytes (what the
// widest swizzle of the tensor cores' operands asks for).
#ifdef __CUDACC__
#define SEQKERN_DYNAMIC_SHARED(type, name)                                  \
  extern __shared__ __align__(1024) unsigned char seqkern_dynamic_shared[]; \
  type* const name = reinterpret_cast<type*>(seqkern_dynamic_shared)
#else
#define SEQKERN_DYNAMIC_SHARED(type, name) \
  type* const name = static_cast<type*>(emulator::dynamic_shared_memory({__FILE__, __LINE__}))
#endif

namespace seqkern::device {

// 4, 8 or 16 bytes that are read and written at once, at an address that is a multiple of them.
template <class T, int count>
struct alignas(sizeof(T) * count) Vector {
  static_assert(sizeof(T) * count == 4 || sizeof(T) * count == 8 || sizeof(T) * count == 16,
                "a thread reads and writes 4, 8 or 16 bytes at once");
  T values[count];

  SEQKERN_HOST_DEVICE T& operator[](int i) { return values[i]; }
  SEQKERN_HOST_DEVICE const T& operator[](int i) const { return values[i]; }
};

// The same bytes as another type.
template <class To, class From>
SEQKERN_HOST_DEVICE To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "both have to have the same size");
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

// The number types of `bytes` bytes that single instructions move.
template <int bytes>
struct Bits;
template <>
struct Bits<1> {
  using type = uint8_t;
};
template <>
struct Bits<2> {
  using type = uint16_t;
};
template <>
struct Bits<4> {
  using type = uint32_t;
};
template <>
struct Bits<8> {
  using type = uint64_t;
};
#ifdef __CUDACC__
template <>
struct Bits<16> {
  using type = uint4;
};
#endif

#ifdef __CUDACC__

template <class T>
SEQKERN_DEVICE T read(const T* p, Place = here()) {
  if constexpr (sizeof(T) <= 2 || std::is_arithmetic<T>::value) {
    return *p;
  } else {  // as one word, not member by member
    using Word = typename Bits<sizeof(T)>::type;
    return bit_cast<T>(*reinterpret_cast<const Word*>(p));
  }
}

template <class T>
SEQKERN_DEVICE void write(T* p, T value, Place = here()) {
  if constexpr (sizeof(T) <= 2 || std::is_arithmetic<T>::value) {
    *p = value;
  } else {
    using Word = typename Bits<sizeof(T)>::type;
    *reinterpret_cast<Word*>(p) = bit_cast<Word>(value);
  }
}

// Global memory, past the SM's own L1, which does not see what other
// SMs write (PTX ISA, "Cache Operators": ld.global.cg).
template <class T>
SEQKERN_DEVICE T read_shared_cache(const T* p, Place = here()) {
  using Word = typename Bits<sizeof(T)>::type;
  return bit_cast<T>(__ldcg(reinterpret_cast<const Word*>(p)));
}

// Global memory that is read once, or written for later: it is the first to leave the caches
// (ld.global.cs, st.global.cs).
template <class T>
SEQKERN_DEVICE T read_once(const T* p, Place = here()) {
  using Word = typename Bits<sizeof(T)>::type;
  return bit_cast<T>(__ldcs(reinterpret_cast<const Word*>(p)));
}
template <class T>
SEQKERN_DEVICE void write_once(T* p, T value, Place = here()) {
  using Word = typename Bits<sizeof(T)>::type;
  __stcs(reinterpret_cast<Word*>(p), bit_cast<Word>(value));
}

// Global memory that nobody writes while the kernel runs (ld.global.nc).
template <class T>
SEQKERN_DEVICE T read_constant(const T* p, Place = here()) {
  using Word = typename Bits<sizeof(T)>::type;
  return bit_cast<T>(__ldg(reinterpret_cast<const Word*>(p)));
}

#else

template <class T>
T read(const T* p, Place place = here()) {
  emulator::check_read(p, sizeof(T), place);
  return *p;
}

template <class T>
void write(T* p, T value, Place place = here()) {
  emulator::check_write(p, sizeof(T), place);
  *p = value;
}

// There are no caches here.
template <class T>
T read_shared_cache(const T* p, Place place = here()) {
  emulator::check_global(p, place);
  return read(p, place);
}
template <class T>
T read_once(const T* p, Place place = here()) {
  emulator::check_global(p, place);
  return read(p, place);
}
template <class T>
void write_once(T* p, T value, Place place = here()) {
  emulator::check_global(p, place);
  write(p, value, place);
}
template <class T>
T read_constant(const T* p, Place place = here()) {
  emulator::check_global(p, place);
  return read(p, place);
}

#endif

// `count` neighbours at once.
template <int count, class T>
SEQKERN_DEVICE Vector<T, count> read_vector(const T* p, Place place = here()) {
  return read(reinterpret_cast<const Vector<T, count>*>(p), place);
}
template <class T, int count>
SEQKERN_DEVICE void write_vector(T* p, const Vector<T, count>& values, Place place = here()) {
  write(reinterpret_cast<Vector<T, count>*>(p), values, place);
}

}  // namespace seqkern::device
