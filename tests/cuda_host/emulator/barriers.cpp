// Barriers of a block: of all its threads, and the named ones of some of them.
#include <algorithm>

#include "failures.h"
#include "knowledge.h"
#include "machine.h"

namespace seqkern::emulator {
void barrier(Place place) {
  Thread& self = *machine.thread;
  Block& block = *self.block;
  for (const Thread& other : block.threads) {
    if (other.waits_at != kBlockBarrier) continue;
    if (same(other.place, place)) break;  // as all that came since did
    self.waits_at = kBlockBarrier;
    self.place = place;
    fail_divergent(other, self);
  }
  if (++block.at_barrier < static_cast<int>(block.threads.size())) {
    wait_at(kBlockBarrier, place);
    return;
  }
  block.at_barrier = 0;
  machine.idle_polls = 0;
  order(block);
  for (Thread& other : block.threads) {
    if (&other != &self) release(other);
  }
  yield();  // who comes last is not always the first to go on
}

void named_barrier(int id, int count, bool wait, Place place) {
  if (id < 1 || id >= kNamedBarriers) {
    fail("named barrier %d at %s; there are 1 to %d", id, name_of(place).c_str(),
         kNamedBarriers - 1);
  }
  if (count < kWarp || count % kWarp != 0 || count > machine.launch.threads) {
    fail(
        "named barrier %d for %d threads at %s; it should be whole warps of the block's %d threads",
        id, count, name_of(place).c_str(), machine.launch.threads);
  }
  Thread& self = *machine.thread;
  NamedBarrier& named = self.block->named[id];
  if (named.arrived.empty()) named.count = count;
  if (named.count != count) {
    fail("named barrier %d for %d threads at %s, but the others came for %d", id, count,
         name_of(place).c_str(), named.count);
  }
  if (std::find(named.arrived.begin(), named.arrived.end(), &self) != named.arrived.end()) {
    fail("named barrier %d at %s, where this thread arrived before and the others have not come",
         id, name_of(place).c_str());
  }
  named.arrived.push_back(&self);
  if (static_cast<int>(named.arrived.size()) < count) {
    if (!wait) return;
    named.waiting.push_back(&self);
    wait_at("a named barrier", place);
    return;
  }
  machine.idle_polls = 0;
  order(named.arrived);
  for (Thread* other : named.waiting) release(*other);
  named = {};
  if (wait) yield();
}

}  // namespace seqkern::emulator
