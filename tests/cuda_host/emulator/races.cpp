#include "races.h"

#include <algorithm>

namespace seqkern::emulator {
namespace {

constexpr size_t kGranule = 2;

struct Record {
  Time time;        // 0: none
  uint16_t thread;  // within the cluster
  uint16_t file;    // in `files`
  uint32_t line : 31;
  uint32_t atomic : 1;
};

struct History {
  Record write;
  Record reads[2];
};

const char* memory;
History* histories = nullptr;
size_t mapped = 0;
std::vector<const char*> files;

// Until when a thread knows of what another one of its cluster did, beyond what barriers of the
// whole warp, block and cluster say: it takes such a table once barriers join other threads.
struct Pairs {
  std::vector<Time> until;  // [thread * threads of the cluster + other]
};
std::vector<Pairs> pairs;  // of each cluster that is there

int cluster_threads() {
  return machine.launch.cluster * machine.launch.threads;
}

Pairs& pairs_of(const Thread& thread) {
  return pairs[thread.block->slot / machine.launch.cluster];
}

const Block& block_of(const Thread& self, int other) {
  return machine
      .blocks[self.block->slot - self.block->cluster_rank + other / machine.launch.threads];
}

Time known_until(const Thread& self, int other) {
  if (other == self.cluster_index) return machine.time + 1;
  Time time = self.block->began;
  const int threads = machine.launch.threads;
  if (other / threads == self.block->cluster_rank) {
    time = std::max(time, self.block->ordered);
    if (other % threads / kWarp == self.index / kWarp) time = std::max(time, self.warp->ordered);
  }
  if (self.cluster_waits > 0) {
    const auto& barrier =
        machine.blocks[self.block->slot - self.block->cluster_rank].cluster_barrier;
    time = std::max(time, barrier.until[(self.cluster_waits - 1) % 3][other]);
  }
  const Pairs& known = pairs_of(self);
  if (!known.until.empty()) {
    time = std::max(time, known.until[size_t(self.cluster_index) * cluster_threads() + other]);
  }
  return time;
}

uint16_t index_of(const char* file) {
  static const char* last_file = nullptr;
  static uint16_t last_index = 0;
  if (file == last_file && !files.empty()) return last_index;
  const auto found = std::find(files.begin(), files.end(), file);
  last_index = found - files.begin();
  if (found == files.end()) files.push_back(file);
  last_file = file;
  return last_index;
}

[[noreturn]] void fail_race(const char* address, const Record& before, const char* did,
                            Access access, Place place) {
  const Thread& self = *machine.thread;
  const Thread& other =
      block_of(self, before.thread).threads[before.thread % machine.launch.threads];
  fail("race in shared memory: it %s %s at %s, and nothing orders this after %s, which %s it at %s",
       is_write(access) ? "writes" : "reads", name_of_shared(address).c_str(),
       name_of(place).c_str(), name_of(other).c_str(), did,
       name_of({files[before.file], static_cast<int>(before.line)}).c_str());
}

void check_granule(const char* address, History& history, const Record& now, Access access,
                   Place place) {
  const Thread& self = *machine.thread;
  const auto races = [&](const Record& before) {
    // Of blocks that were there before, thread numbers mean nothing now: the first line sees to it.
    return before.time != 0 && before.time >= self.block->began && before.thread != now.thread &&
           !(before.atomic && now.atomic) && before.time >= known_until(self, before.thread);
  };
  if (races(history.write)) fail_race(address, history.write, "wrote", access, place);
  if (!is_write(access)) {
    Record* slot = &history.reads[0];
    if (slot->time != 0 && slot->thread != now.thread && races(*slot)) slot = &history.reads[1];
    *slot = now;
    return;
  }
  for (Record& read : history.reads) {
    if (races(read)) fail_race(address, read, "read", access, place);
    read.time = 0;
  }
  history.write = now;
}

}  // namespace

void begin_races(const char* begin, size_t bytes) {
  const size_t needed = bytes / kGranule * sizeof(History);
  if (needed > mapped) {
    unmap_memory(reinterpret_cast<char*>(histories), mapped);
    histories = reinterpret_cast<History*>(map_memory(needed));
    mapped = needed;
  }
  memory = begin;
  pairs = std::vector<Pairs>(machine.blocks.size() / machine.launch.cluster);
}

void forget_races() {
  ++machine.time;
  for (Pairs& known : pairs) known.until.clear();
}

void check_race(const char* address, size_t size, Access access, Place place) {
  const Record now = {machine.time, static_cast<uint16_t>(machine.thread->cluster_index),
                      index_of(place.file), static_cast<uint32_t>(place.line), is_atomic(access)};
  const size_t first = (address - memory) / kGranule;
  const size_t last = (address - memory + size - 1) / kGranule;
  for (size_t i = first; i <= last; ++i) {
    check_granule(memory + i * kGranule, histories[i], now, access, place);
  }
}

void order(Warp& warp) {
  Knowledge all;
  const bool pairs = by_pairs(*warp.lanes);
  for (int i = 0; pairs && i < warp.count; ++i) all.add(warp.lanes[i]);
  warp.ordered = ++machine.time;
  for (int i = 0; pairs && i < warp.count; ++i) all.give(warp.lanes[i]);
}

void order(Block& block) {
  // Within the block nobody has to look further; but one may know of other blocks' threads.
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

bool by_pairs(const Thread& thread) {
  return !pairs_of(thread).until.empty();
}

void Knowledge::add(const Knowledge& other) {
  until_.resize(cluster_threads());
  for (size_t i = 0; i < other.until_.size(); ++i) until_[i] = std::max(until_[i], other.until_[i]);
}

void Knowledge::add(const Thread& thread) {
  const int count = cluster_threads();
  until_.resize(count);
  for (int other = 0; other < count; ++other) {
    until_[other] = std::max(until_[other], known_until(thread, other));
  }
}

void Knowledge::give(Thread& thread) const {
  const int count = cluster_threads();
  Pairs& known = pairs_of(thread);
  known.until.resize(size_t(count) * count);
  for (size_t other = 0; other < until_.size(); ++other) {
    Time& time = known.until[size_t(thread.cluster_index) * count + other];
    time = std::max(time, until_[other]);
  }
}

}  // namespace seqkern::emulator
