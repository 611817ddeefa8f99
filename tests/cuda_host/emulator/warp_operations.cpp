// What the lanes of a warp do together: shuffles and votes.
#include <algorithm>
#include <cstring>

#include "failures.h"
#include "knowledge.h"
#include "machine.h"

namespace seqkern::emulator {
namespace {

struct Shuffled {
  Shuffle kind;
  uint64_t bits;
  int argument;
  uint64_t* result;
};

struct Vote {
  bool vote;
  uint32_t* result;
};

void run_shuffle(const void* const* payloads, int lanes) {
  for (int lane = 0; lane < lanes; ++lane) {
    const auto& mine = *static_cast<const Shuffled*>(payloads[lane]);
    int source = lane;
    switch (mine.kind) {
      case Shuffle::kXor:
        source = lane ^ mine.argument;
        break;
      case Shuffle::kDown:
        source = lane + mine.argument < kWarp ? lane + mine.argument : lane;
        break;
      case Shuffle::kUp:
        source = lane >= mine.argument ? lane - mine.argument : lane;
        break;
      case Shuffle::kIndex:
        source = mine.argument;
        break;
    }
    if (source >= lanes) fail("a shuffle with lane %d, which is not there", source);
    *mine.result = static_cast<const Shuffled*>(payloads[source])->bits;
  }
}

void run_vote(const void* const* payloads, int lanes) {
  uint32_t votes = 0;
  for (int lane = 0; lane < lanes; ++lane) {
    votes |= uint32_t{static_cast<const Vote*>(payloads[lane])->vote} << lane;
  }
  for (int lane = 0; lane < lanes; ++lane) {
    *static_cast<const Vote*>(payloads[lane])->result = votes;
  }
}

void run_sync(const void* const*, int) {
  order(*machine.thread->warp);
}

}  // namespace

void together(const char* what, const void* payload, WarpOperation run, Place place) {
  Thread& self = *machine.thread;
  Warp& warp = *self.warp;
  if (warp.arrived > 0) {
    int first = 0;
    while (warp.payloads[first] == nullptr) ++first;
    const Thread& other = warp.lanes[first];
    if (std::strcmp(other.waits_at, what) != 0 || !same(other.place, place)) {
      self.waits_at = what;
      self.place = place;
      fail_divergent(other, self);
    }
  }
  warp.payloads[self.index % kWarp] = payload;
  if (++warp.arrived < warp.count) {
    wait_at(what, place);
    return;
  }
  run(warp.payloads, warp.count);
  std::fill_n(warp.payloads, kWarp, nullptr);
  warp.arrived = 0;
  machine.idle_polls = 0;
  for (int i = 0; i < warp.count; ++i) {
    if (&warp.lanes[i] != &self) release(warp.lanes[i]);
  }
}

uint64_t shuffle(Shuffle kind, uint64_t bits, int argument, Place place) {
  if (argument < 0 || argument >= kWarp) {
    fail("a shuffle by %d at %s, which leaves the warp", argument, name_of(place).c_str());
  }
  uint64_t result = 0;
  const Shuffled mine = {kind, bits, argument, &result};
  together("a shuffle", &mine, run_shuffle, place);
  return result;
}

uint32_t ballot(bool vote, Place place) {
  uint32_t result = 0;
  const Vote mine = {vote, &result};
  together("a vote", &mine, run_vote, place);
  return result;
}

void warp_sync(Place place) {
  const char here = 0;
  together("a warp's barrier", &here, run_sync, place);
}

}  // namespace seqkern::emulator
