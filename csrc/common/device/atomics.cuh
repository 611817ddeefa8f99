// Atomic updates, relaxed: they order nothing around them, see flags.cuh for what does.
#pragma once

#include "common/device/memory.cuh"

namespace seqkern::device {

// Who the others are that an access is atomic (or ordered) for.
enum class Scope { kBlock, kGpu, kSystem };

#ifdef __CUDACC__

// Each returns what was there before. T is float, int, unsigned or unsigned long long (and double
// for add).
template <Scope scope = Scope::kGpu, class T>
SEQKERN_DEVICE T atomic_add(T* p, T value, Place = here()) {
  if constexpr (scope == Scope::kBlock) return atomicAdd_block(p, value);
  if constexpr (scope == Scope::kSystem) return atomicAdd_system(p, value);
  return atomicAdd(p, value);
}
template <Scope scope = Scope::kGpu, class T>
SEQKERN_DEVICE T atomic_max(T* p, T value, Place = here()) {
  if constexpr (scope == Scope::kBlock) return atomicMax_block(p, value);
  if constexpr (scope == Scope::kSystem) return atomicMax_system(p, value);
  return atomicMax(p, value);
}
template <Scope scope = Scope::kGpu, class T>
SEQKERN_DEVICE T atomic_exchange(T* p, T value, Place = here()) {
  if constexpr (scope == Scope::kBlock) return atomicExch_block(p, value);
  if constexpr (scope == Scope::kSystem) return atomicExch_system(p, value);
  return atomicExch(p, value);
}
// Writes `value` where `expected` was.
template <Scope scope = Scope::kGpu, class T>
SEQKERN_DEVICE T atomic_compare_and_swap(T* p, T expected, T value, Place = here()) {
  if constexpr (scope == Scope::kBlock) return atomicCAS_block(p, expected, value);
  if constexpr (scope == Scope::kSystem) return atomicCAS_system(p, expected, value);
  return atomicCAS(p, expected, value);
}

#else

// A yield before the update lets others in between, if what surrounds it trusts that none come.
template <Scope = Scope::kGpu, class T, class Update>
T atomic_update(T* p, Place place, Update update) {
  emulator::begin_atomic(p, sizeof(T), place);
  const T before = *p;
  *p = update(before);
  emulator::end_atomic(p, std::memcmp(p, &before, sizeof(T)) != 0, emulator::Order::kRelaxed, true);
  return before;
}

template <Scope scope = Scope::kGpu, class T>
T atomic_add(T* p, T value, Place place = here()) {
  return atomic_update<scope>(p, place, [=](T before) { return before + value; });
}
template <Scope scope = Scope::kGpu, class T>
T atomic_max(T* p, T value, Place place = here()) {
  return atomic_update<scope>(p, place, [=](T before) { return before < value ? value : before; });
}
template <Scope scope = Scope::kGpu, class T>
T atomic_exchange(T* p, T value, Place place = here()) {
  return atomic_update<scope>(p, place, [=](T) { return value; });
}
template <Scope scope = Scope::kGpu, class T>
T atomic_compare_and_swap(T* p, T expected, T value, Place place = here()) {
  return atomic_update<scope>(p, place,
                              [=](T before) { return before == expected ? value : before; });
}

#endif

}  // namespace seqkern::device
