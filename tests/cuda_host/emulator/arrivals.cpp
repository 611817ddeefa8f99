#include "arrivals.h"

#include <cstring>
#include <map>

#include "shared_memory.h"

namespace seqkern::emulator {
namespace {

struct State {
  int count;    // arrivals of each phase
  int pending;  // of this phase
  int64_t bytes = 0;
  uint64_t phase = 0;
  Knowledge arriving, ended;
};

std::map<const void*, State> barriers;

State& state_of(const void* arrivals, Place place) {
  const auto found = barriers.find(arrivals);
  if (found == barriers.end()) {
    fail("an arrivals barrier at %s that nobody has set up by init()", name_of(place).c_str());
  }
  return found->second;
}

void end_phase_if_complete(void* arrivals, State& state) {
  if (state.pending > 0 || state.bytes != 0) return;
  ++state.phase;
  state.pending = state.count;
  state.ended = state.arriving;
  std::memcpy(arrivals, &state.phase, sizeof(state.phase));  // so that who looks sees a change
  machine.idle_polls = 0;
}

}  // namespace

void forget_arrivals() {
  barriers.clear();
}

void check_arrivals(const void* arrivals, Place place) {
  check_atomic(arrivals, sizeof(uint64_t), place);
  state_of(arrivals, place);
}

void init_arrivals(void* arrivals, int count, Place place) {
  if (!is_shared(static_cast<const char*>(arrivals))) {
    fail("an arrivals barrier at %s that is not in shared memory", name_of(place).c_str());
  }
  if (count < 1) fail("an arrivals barrier of %d at %s", count, name_of(place).c_str());
  check_write(arrivals, sizeof(uint64_t), place);
  std::memset(arrivals, 0, sizeof(uint64_t));
  barriers[arrivals] = {count, count, 0, 0, {}, {}};
}

void arrive(void* arrivals, int announced_bytes, Place place) {
  begin_atomic(arrivals, sizeof(uint64_t), place);
  State& state = state_of(arrivals, place);
  if (state.pending == 0) {
    fail("it arrives at %s, where all %d arrivals of the phase have come and bytes are missing",
         name_of(place).c_str(), state.count);
  }
  state.arriving.add(*machine.thread);
  ++machine.time;
  state.bytes += announced_bytes;
  --state.pending;
  end_phase_if_complete(arrivals, state);
}

bool phase_has_ended(const void* arrivals, int parity, Place place) {
  if (parity != 0 && parity != 1) {
    fail("a phase's parity of %d at %s", parity, name_of(place).c_str());
  }
  check_poll(arrivals, sizeof(uint64_t), place);
  State& state = state_of(arrivals, place);
  if (static_cast<int>(state.phase % 2) != parity) {
    state.ended.give(*machine.thread);
    return true;
  }
  polled(arrivals, state.phase, sizeof(uint64_t), place);
  return false;
}

void complete_bytes(void* arrivals, int bytes, const Knowledge& knowledge) {
  State& state = state_of(arrivals, {});
  state.arriving.add(knowledge);
  state.bytes -= bytes;
  end_phase_if_complete(arrivals, state);
}

}  // namespace seqkern::emulator
