// Runs a grid: which blocks are there at the same time, and which of their threads goes on next.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "arrivals.h"
#include "failures.h"
#include "machine.h"
#include "shared_memory.h"

namespace seqkern::emulator {

Machine machine;

namespace {

constexpr int kProcessorThreads = 2048;
constexpr int kProcessorShared = 227 * 1024;

uint64_t random_state = 0;
Stacks stacks;

// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
uint64_t random() {
  uint64_t z = random_state += 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

std::vector<int> shuffled(int count) {
  std::vector<int> order(count);
  std::iota(order.begin(), order.end(), 0);
  for (int i = count - 1; i > 0; --i) std::swap(order[i], order[draw(i + 1)]);
  return order;
}

void fiber_main() {
  (*machine.kernel)();
  Thread& self = *machine.thread;
  self.ended = true;
  ++self.block->ended;
  machine.idle_polls = 0;
  Fiber::hand_over(self.fiber, machine.scheduler);
}

// Most warps run whenever they can; some are passed over half of the time and some nearly always,
// so that whoever does not wait for them overtakes them by far.
uint32_t draw_sloth() {
  constexpr uint32_t kSloths[] = {0, 0, 0, 1u << 31, 0xf0000000u};
  return kSloths[draw(5)];
}

void start(Block& block, int index, int slot) {
  const int count = machine.launch.threads;
  block.index = index;
  block.slot = slot;
  block.cluster_rank = index % machine.launch.cluster;
  block.ordered = block.began = machine.time;
  block.at_barrier = block.ended = 0;
  block.threads.resize(count);
  block.warps.resize((count + kWarp - 1) / kWarp);
  for (NamedBarrier& barrier : block.named) barrier = {};
  block.cluster_barrier = {};
  block.outside = {};
  const uint32_t block_sloth = draw_sloth();
  for (int i = 0; i < count; ++i) {
    Thread& thread = block.threads[i];
    const Fiber fiber = thread.fiber;  // which may own something
    thread = {};
    thread.fiber = fiber;
    thread.block = &block;
    thread.warp = &block.warps[i / kWarp];
    thread.index = i;
    thread.cluster_index = block.cluster_rank * count + i;
    // Stacks that all ended at the same place of a page would drive each other out of the cache.
    const size_t unused = i * 320 % 4096;
    thread.fiber.start(stacks[size_t(slot) * count + i], Stacks::kBytes - unused, fiber_main);
  }
  for (size_t w = 0; w < block.warps.size(); ++w) {
    Warp& warp = block.warps[w];
    warp = {};
    warp.block = &block;
    warp.lanes = &block.threads[w * kWarp];
    warp.count = std::min<int>(kWarp, count - w * kWarp);
    warp.sloth = std::max(block_sloth, draw_sloth());
    warp.ordered = machine.time;
    for (int i = 0; i < warp.count; ++i) release(warp.lanes[i]);
  }
}

// Whether a thread that looks at a flag again and again would see what it saw before. That saves
// two switches most of the time, but not always: what it saw twice may by now be what it wants.
bool would_spin(const Thread& thread) {
  if (!thread.spins) return false;
  uint64_t word = 0;
  std::memcpy(&word, thread.polled, thread.polled_bytes);
  if (word != thread.polled_word || draw(16) == 0) return false;
  // Time enough for each warp to have had its turn, the sloths too.
  if (++machine.idle_polls > 2000 * machine.blocks.size() * machine.launch.threads) fail_stuck();
  return true;
}

// Every lane that can go on does, until it waits, yields or ends.
void run_lanes(Warp& warp) {
  const uint32_t lanes = warp.ready;
  warp.ready = 0;
  const uint32_t flip = draw(kWarp);  // decides for each two lanes which one is first
  for (uint32_t i = 0; i < kWarp; ++i) {
    const uint32_t lane = i ^ flip;
    if ((lanes >> lane & 1) == 0) continue;
    machine.thread = &warp.lanes[lane];
    if (would_spin(*machine.thread)) {
      warp.ready |= 1u << lane;
      continue;
    }
    machine.thread->spins = false;
    ++machine.switches;
    Fiber::hand_over(machine.scheduler, machine.thread->fiber);
    if (machine.thread->fiber.overflowed()) {
      fail("its stack of %zu bytes is too small", Stacks::kBytes);
    }
  }
}

bool all_ended() {
  return std::all_of(machine.blocks.begin(), machine.blocks.end(), [](const Block& block) {
    return block.ended == static_cast<int>(block.threads.size());
  });
}

// The copy engine gets on with something.
void finish_one() {
  auto& under_way = machine.under_way;
  std::swap(under_way[draw(under_way.size())], under_way.back());
  const auto copy = std::move(under_way.back());
  under_way.pop_back();
  machine.idle_polls = 0;
  copy();
}

void run_until_all_ended() {
  for (;;) {
    while (!machine.ready.empty()) {
      if (!machine.under_way.empty() && draw(8) == 0) finish_one();
      const uint32_t at = draw(machine.ready.size());
      Warp& warp = *machine.ready[at];
      if (machine.ready.size() > 1 && warp.sloth > draw(UINT32_MAX)) continue;
      machine.ready[at] = machine.ready.back();
      machine.ready.pop_back();
      run_lanes(warp);
      warp.queued = warp.ready != 0;
      if (warp.queued) machine.ready.push_back(&warp);
    }
    if (all_ended()) break;
    if (machine.under_way.empty()) fail_stuck();
    finish_one();
  }
  if (machine.under_way.empty()) return;
  machine.thread = nullptr;
  fail("blocks have ended, but copies from or to their shared memory are still under way");
}

void check_launch(const Launch& launch) {
  machine.thread = nullptr;
  if (launch.blocks < 1 || launch.threads < 1 || launch.threads > 1024 || launch.cluster < 1 ||
      launch.dynamic_shared < 0) {
    fail("a launch of %d blocks of %d threads with %d bytes in clusters of %d", launch.blocks,
         launch.threads, launch.dynamic_shared, launch.cluster);
  }
  if (launch.cluster > 16 || launch.blocks % launch.cluster != 0) {
    fail("%d blocks do not make clusters of %d, or those are more than 16 blocks", launch.blocks,
         launch.cluster);
  }
  if (launch.dynamic_shared > kProcessorShared) {
    fail("%d bytes of dynamic shared memory, where there are %d", launch.dynamic_shared,
         kProcessorShared);
  }
  const int most = most_resident_blocks(launch.threads, launch.dynamic_shared);
  if (launch.cooperative && launch.blocks > most) {
    fail("a cooperative launch of %d blocks, of which only %d are there at the same time",
         launch.blocks, most);
  }
}

}  // namespace

uint32_t draw(uint32_t limit) {
  return (random() >> 32) * limit >> 32;
}

void set_seed(uint64_t seed) {
  random_state = seed;
}

void set_processors(int count) {
  machine.processors = count;
}

int most_resident_blocks(int threads, int dynamic_shared) {
  const int rounded = (threads + kWarp - 1) / kWarp * kWarp;
  constexpr int kReserved = 1024;  // of each block, for the system
  return machine.processors *
         std::min({32, kProcessorThreads / rounded,
                   (kProcessorShared + kReserved) / (dynamic_shared + kReserved)});
}

uint64_t switches() {
  return machine.switches;
}

void run(const Launch& launch, const std::function<void()>& kernel) {
  check_launch(launch);
  machine.launch = launch;
  machine.kernel = &kernel;
  // Blocks that need not be there together come one after the other, so that they cannot rely on
  // it.
  const int together = launch.cooperative ? launch.blocks : launch.cluster;
  machine.blocks = std::vector<Block>(together);
  stacks.reserve(size_t(together) * launch.threads);
  begin_shared_memory(together);
  forget_launch();
  for (const int group : shuffled(launch.blocks / together)) {
    machine.idle_polls = 0;
    clear_shared_memory();
    forget_blocks();
    forget_arrivals();
    for (int slot = 0; slot < together; ++slot) {
      start(machine.blocks[slot], group * together + slot, slot);
    }
    run_until_all_ended();
  }
  machine.thread = nullptr;
}

int thread() {
  return machine.thread->index;
}
int block() {
  return machine.thread->block->index;
}
int threads() {
  return machine.launch.threads;
}
int blocks() {
  return machine.launch.blocks;
}

int cluster_rank() {
  return machine.thread->block->cluster_rank;
}
int cluster_blocks() {
  return machine.launch.cluster;
}

void release(Thread& thread) {
  thread.waits_at = nullptr;
  Warp& warp = *thread.warp;
  warp.ready |= 1u << thread.index % kWarp;
  if (warp.queued) return;
  warp.queued = true;
  machine.ready.push_back(&warp);
}

void wait_at(const char* what, Place place) {
  Thread& self = *machine.thread;
  self.waits_at = what;
  self.place = place;
  Fiber::hand_over(self.fiber, machine.scheduler);
}

void yield() {
  Thread& self = *machine.thread;
  self.warp->ready |= 1u << self.index % kWarp;  // it is queued again when its warp has run
  Fiber::hand_over(self.fiber, machine.scheduler);
}

void polled(const void* address, uint64_t word, int bytes, Place place) {
  Thread& self = *machine.thread;
  const bool news = address != self.polled || word != self.polled_word;
  self.polled = address;
  self.polled_word = word;
  self.polled_bytes = bytes;
  self.place = place;
  self.spins = !news;
  if (news) {
    machine.idle_polls = 0;
    if (draw(4) != 0) return;
  }
  yield();
}

void begin_atomic(const void* address, size_t bytes, Place place) {
  check_atomic(address, bytes, place);
  if (draw(4) == 0) yield();
}

void end_atomic(const void* address, bool changed, Order order, bool update) {
  if (changed) machine.idle_polls = 0;
  if (update) saw(address, Order::kRelaxed);
  published(address, order, update);
}

}  // namespace seqkern::emulator
