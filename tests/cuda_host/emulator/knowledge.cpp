#include "knowledge.h"

#include <algorithm>
#include <unordered_map>

#include "machine.h"

namespace seqkern::emulator {
namespace {

// Until when a thread knows of what another one of its cluster did, beyond what barriers of the
// whole warp, block and cluster say: it takes such a table once barriers join other threads.
std::vector<std::vector<Time>> pairs;  // of each cluster; [thread * threads of the cluster + other]

// What was released at a flag.
struct Flag {
  Outside released;
  Time time;  // of the last release
};
std::unordered_map<const void*, Flag> flags;

int cluster_threads() {
  return machine.launch.cluster * machine.launch.threads;
}

int first_of_cluster(const Thread& thread) {
  return thread.block->index - thread.block->cluster_rank;
}

std::vector<Time>& pairs_of(const Thread& thread) {
  return pairs[thread.block->slot / machine.launch.cluster];
}

// `other` is a number within the cluster.
Time known_in_cluster(const Thread& self, int other) {
  if (other == self.cluster_index) return machine.time + 1;
  Time time = self.block->began;
  const int threads = machine.launch.threads;
  if (other / threads == self.block->cluster_rank) {
    time = std::max(time, self.block->ordered);
    if (other % threads / kWarp == self.index / kWarp) time = std::max(time, self.warp->ordered);
  }
  if (self.cluster_waits > 0) {
    const Block& first = machine.blocks[self.block->slot - self.block->cluster_rank];
    time = std::max(time, first.cluster_barrier.until[(self.cluster_waits - 1) % 3][other]);
  }
  const std::vector<Time>& known = pairs_of(self);
  if (!known.empty()) {
    time = std::max(time, known[size_t(self.cluster_index) * cluster_threads() + other]);
  }
  return time;
}

// What an acquiring read of the flag tells.
void acquire(Thread& self, const void* address) {
  const auto found = flags.find(address);
  if (found == flags.end()) return;
  const Flag& flag = found->second;
  if (self.acquired == address && self.acquired_time == flag.time) return;
  self.acquired = address;
  self.acquired_time = flag.time;
  learn(self, flag.released);
}

}  // namespace

void Outside::add(const Outside& other) {
  blocks.resize(std::max(blocks.size(), other.blocks.size()));
  for (size_t i = 0; i < other.blocks.size(); ++i) blocks[i] = std::max(blocks[i], other.blocks[i]);
  for (const auto& [thread, time] : other.threads) {
    if (time <= until(thread)) continue;
    threads[thread] = time;
  }
}

Time Outside::until(int thread) const {
  const size_t block = thread / machine.launch.threads;
  const Time all = block < blocks.size() ? blocks[block] : 0;
  const auto found = threads.find(thread);
  return found == threads.end() ? all : std::max(all, found->second);
}

int grid_index(const Thread& thread) {
  return thread.block->index * machine.launch.threads + thread.index;
}

Time known_until(const Thread& self, int other) {
  const int in_cluster = other - first_of_cluster(self) * machine.launch.threads;
  const bool same_cluster = in_cluster >= 0 && in_cluster < cluster_threads();
  Time time = same_cluster ? known_in_cluster(self, in_cluster) : 0;
  if (!self.block->outside.empty()) time = std::max(time, self.block->outside.until(other));
  if (self.outside) time = std::max(time, self.outside->until(other));
  return time;
}

bool by_pairs(const Thread& thread) {
  return !pairs_of(thread).empty();
}

void learn(Thread& thread, const Outside& outside) {
  if (outside.empty()) return;
  if (!thread.outside) thread.outside = std::make_shared<Outside>();
  thread.outside->add(outside);
}

Outside everything_known(const Thread& self) {
  Outside known = self.block->outside;
  if (self.outside) known.add(*self.outside);
  known.blocks.resize(machine.launch.blocks);
  const int first = first_of_cluster(self), threads = machine.launch.threads;
  for (int rank = 0; rank < machine.launch.cluster; ++rank) {
    Time all = known_in_cluster(self, rank * threads);
    for (int i = 0; i < threads; ++i) {
      all = std::min(all, known_in_cluster(self, rank * threads + i));
    }
    Time& block = known.blocks[first + rank];
    block = std::max(block, all);
    for (int i = 0; i < threads; ++i) {
      const Time time = known_in_cluster(self, rank * threads + i);
      if (time > block) known.threads[(first + rank) * threads + i] = time;
    }
  }
  return known;
}

void order(Warp& warp) {
  Knowledge all;
  bool any = by_pairs(*warp.lanes);
  for (int i = 0; i < warp.count; ++i) any = any || warp.lanes[i].outside;
  for (int i = 0; any && i < warp.count; ++i) all.add(warp.lanes[i]);
  warp.ordered = ++machine.time;
  for (int i = 0; any && i < warp.count; ++i) all.give(warp.lanes[i]);
}

void order(Block& block) {
  for (Thread& thread : block.threads) {
    if (!thread.outside) continue;
    block.outside.add(*thread.outside);
    thread.outside = nullptr;
  }
  // Within the block nobody has to look further; but one may know of the cluster's other blocks.
  Knowledge all;
  const bool pairs = machine.launch.cluster > 1 && by_pairs(block.threads[0]);
  if (pairs) {
    for (const Thread& thread : block.threads) all.add(thread);
  }
  block.ordered = ++machine.time;
  if (pairs) {
    for (Thread& thread : block.threads) all.give(thread);
  }
}

void order(const std::vector<Thread*>& threads) {
  Knowledge all;
  for (const Thread* thread : threads) all.add(*thread);
  ++machine.time;  // what they do from now on is not what they know of each other
  for (Thread* thread : threads) all.give(*thread);
}

void Knowledge::add(const Knowledge& other) {
  until_.resize(cluster_threads());
  for (size_t i = 0; i < other.until_.size(); ++i) until_[i] = std::max(until_[i], other.until_[i]);
  outside_.add(other.outside_);
}

void Knowledge::add(const Thread& thread) {
  const int count = cluster_threads();
  until_.resize(count);
  for (int other = 0; other < count; ++other) {
    until_[other] = std::max(until_[other], known_in_cluster(thread, other));
  }
  if (thread.outside) outside_.add(*thread.outside);
  if (machine.launch.cluster > 1) outside_.add(thread.block->outside);
}

void Knowledge::give(Thread& thread) const {
  const int count = cluster_threads();
  std::vector<Time>& known = pairs_of(thread);
  known.resize(size_t(count) * count);
  for (size_t other = 0; other < until_.size(); ++other) {
    Time& time = known[size_t(thread.cluster_index) * count + other];
    time = std::max(time, until_[other]);
  }
  learn(thread, outside_);
}

void forget_launch() {
  machine.launched = ++machine.time;
  flags.clear();
  pairs.assign(machine.blocks.size() / machine.launch.cluster, {});
}

void forget_blocks() {
  ++machine.time;
  for (std::vector<Time>& known : pairs) known.clear();
}

// ---- flags ----

void saw(const void* address, Order order) {
  Thread& self = *machine.thread;
  if (order == Order::kAcquire) {
    acquire(self, address);
    return;
  }
  // A fence that comes later makes it an acquiring one.
  const auto found = flags.find(address);
  if (found != flags.end()) self.seen[address] = found->second.time;
}

void published(const void* address, Order order, bool update) {
  Thread& self = *machine.thread;
  // An update hands on what was released before it; other writes end that.
  if (!update) flags.erase(address);
  if (order == Order::kRelease) {
    flags[address].released.add(everything_known(self));
  } else if (self.fenced) {
    flags[address].released.add(*self.fenced);
  } else {
    return;
  }
  flags[address].time = ++machine.time;
}

void fence() {
  Thread& self = *machine.thread;
  for (const auto& [address, time] : self.seen) {
    const auto found = flags.find(address);
    if (found != flags.end() && found->second.time == time) learn(self, found->second.released);
  }
  self.seen.clear();
  self.fenced = std::make_shared<Outside>(everything_known(self));
  ++machine.time;
}

}  // namespace seqkern::emulator
