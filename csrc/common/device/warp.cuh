// Shuffles and votes. All lanes of the warp take part, at the same place in the source.
#pragma once

#include "common/device/memory.cuh"

namespace seqkern::device {

#ifdef __CUDACC__

constexpr unsigned kAllLanes = 0xffffffffu;

// The value of the lane whose number differs in the bits of `mask`.
template <class T>
SEQKERN_DEVICE T shuffle_xor(T value, int mask, Place = here()) {
  return __shfl_xor_sync(kAllLanes, value, mask);
}
// The value of the lane `offset` further on; the last ones keep their own.
template <class T>
SEQKERN_DEVICE T shuffle_down(T value, int offset, Place = here()) {
  return __shfl_down_sync(kAllLanes, value, offset);
}
// The value of the lane `offset` before; the first ones keep their own.
template <class T>
SEQKERN_DEVICE T shuffle_up(T value, int offset, Place = here()) {
  return __shfl_up_sync(kAllLanes, value, offset);
}
// The value of lane `source`, which may differ from lane to lane.
template <class T>
SEQKERN_DEVICE T shuffle(T value, int source, Place = here()) {
  return __shfl_sync(kAllLanes, value, source);
}

// Bit i says what lane i says.
SEQKERN_DEVICE uint32_t ballot(bool vote, Place = here()) {
  return __ballot_sync(kAllLanes, vote);
}
SEQKERN_DEVICE bool any(bool vote, Place = here()) {
  return __any_sync(kAllLanes, vote);
}
SEQKERN_DEVICE bool all(bool vote, Place = here()) {
  return __all_sync(kAllLanes, vote);
}

#else

template <class T>
T exchange(T value, emulator::Shuffle kind, int argument, Place place) {
  static_assert(sizeof(T) <= sizeof(uint64_t), "a lane hands over at most 64 bits");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = emulator::shuffle(kind, bits, argument, place);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

template <class T>
T shuffle_xor(T value, int mask, Place place = here()) {
  return exchange(value, emulator::Shuffle::kXor, mask, place);
}
template <class T>
T shuffle_down(T value, int offset, Place place = here()) {
  return exchange(value, emulator::Shuffle::kDown, offset, place);
}
template <class T>
T shuffle_up(T value, int offset, Place place = here()) {
  return exchange(value, emulator::Shuffle::kUp, offset, place);
}
template <class T>
T shuffle(T value, int source, Place place = here()) {
  return exchange(value, emulator::Shuffle::kIndex, source, place);
}

inline uint32_t ballot(bool vote, Place place = here()) {
  return emulator::ballot(vote, place);
}
inline bool any(bool vote, Place place = here()) {
  return emulator::ballot(vote, place) != 0;
}
inline bool all(bool vote, Place place = here()) {
  return emulator::ballot(!vote, place) == 0;
}

#endif

}  // namespace seqkern::device
