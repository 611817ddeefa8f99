// Barriers of a cluster, and addresses in its blocks' shared memory.
#include <algorithm>

#include "knowledge.h"
#include "machine.h"
#include "shared_memory.h"

namespace seqkern::emulator {
namespace {

ClusterBarrier& barrier_of(const Thread& thread) {
  return machine.blocks[thread.block->slot - thread.block->cluster_rank].cluster_barrier;
}

int cluster_threads() {
  return machine.launch.cluster * machine.launch.threads;
}

}  // namespace

void cluster_arrive(Place place) {
  Thread& self = *machine.thread;
  ClusterBarrier& barrier = barrier_of(self);
  if (self.cluster_arrivals != self.cluster_waits) {
    fail("it arrives at the cluster's barrier at %s, but has not waited there since it last did",
         name_of(place).c_str());
  }
  auto& until = barrier.until[barrier.phase % 3];
  Outside& outside = barrier.outside[barrier.phase % 3];
  if (barrier.arrived == 0) {
    until.assign(cluster_threads(), 0);
    outside = {};
  }
  if (by_pairs(self)) {
    const int first = (self.block->index - self.block->cluster_rank) * machine.launch.threads;
    for (size_t i = 0; i < until.size(); ++i) {
      until[i] = std::max(until[i], known_until(self, first + i));
    }
  }
  outside.add(self.block->outside);
  if (self.outside) outside.add(*self.outside);
  until[self.cluster_index] = ++machine.time;
  ++self.cluster_arrivals;
  if (++barrier.arrived < cluster_threads()) return;
  barrier.arrived = 0;
  ++barrier.phase;
  machine.idle_polls = 0;
  for (Thread* other : barrier.waiting) release(*other);
  barrier.waiting.clear();
}

void cluster_wait(Place place) {
  Thread& self = *machine.thread;
  ClusterBarrier& barrier = barrier_of(self);
  if (self.cluster_arrivals == self.cluster_waits) {
    fail("it waits at the cluster's barrier at %s, but has not arrived there",
         name_of(place).c_str());
  }
  if (barrier.phase <= self.cluster_waits) {
    barrier.waiting.push_back(&self);
    wait_at("the cluster's barrier", place);
  }
  ++self.cluster_waits;
  learn(self, barrier.outside[(self.cluster_waits - 1) % 3]);
}

void* map_shared_rank(const void* shared, int rank, Place place) {
  if (rank < 0 || rank >= machine.launch.cluster) {
    fail("block %d of a cluster of %d at %s", rank, machine.launch.cluster, name_of(place).c_str());
  }
  const Block& self = *machine.thread->block;
  const Block& other = machine.blocks[self.slot - self.cluster_rank + rank];
  return in_block(other, static_cast<const char*>(shared), place);
}

}  // namespace seqkern::emulator
