// What is running now: the grid's blocks that are there at the same time, their warps and threads.
// One launch at a time, and one thread of the CPU: plain globals, because kernels are free
// functions.
#pragma once

#include <cstdarg>
#include <functional>
#include <string>
#include <vector>

#include "../emulator.h"
#include "fibers.h"
#include "knowledge.h"

namespace seqkern::emulator {

constexpr int kWarp = 32;
constexpr int kNamedBarriers = 16;
constexpr char kBlockBarrier[] = "a barrier";

struct Block;
struct Warp;

// A copy that a thread started and that has not been seen to end.
struct CopyAsync {
  char* to;
  const char* from;
  int bytes, valid;
  int group;
  Place place;
};

struct Thread {
  Fiber fiber;
  Block* block = nullptr;
  Warp* warp = nullptr;
  int index = 0;          // within the block
  int cluster_index = 0;  // within the cluster
  bool ended = false;
  const char* waits_at = nullptr;  // "a barrier", ...; null while it can go on
  Place place = {};                // of what it waits at or looks at
  // The last flag that it looked at, what it saw, and whether it saw that before.
  const void* polled = nullptr;
  uint64_t polled_word = 0;
  int polled_bytes = 0;
  bool spins = false;
  std::vector<CopyAsync> copies;
  int copy_group = 0;
  int stores_under_way = 0;  // of the copy engine
  // How often it arrived at the cluster's barrier, and how often it has waited there.
  uint32_t cluster_arrivals = 0, cluster_waits = 0;
  // What it knows by flags, and its block does not; what it knew at its last fence; flags that it
  // looked at since, with the time of what it saw; and the flag that it last acquired.
  std::shared_ptr<Outside> outside, fenced;
  std::map<const void*, Time> seen;
  const void* acquired = nullptr;
  Time acquired_time = 0;
};

struct Warp {
  Block* block = nullptr;
  Thread* lanes = nullptr;
  int count = 0;       // lanes
  uint32_t ready = 0;  // the lanes that can go on
  bool queued = false;
  uint32_t sloth = 0;  // how often it is passed over although it can go on, in 2^-32
  Time ordered = 0;    // when something last ordered all its lanes
  // What its lanes are doing together, and what each hands over.
  int arrived = 0;
  const void* payloads[kWarp] = {};
};

struct NamedBarrier {
  int count = 0;  // of the threads that it joins
  std::vector<Thread*> arrived;
  std::vector<Thread*> waiting;  // those of them that wait for the others
};

struct ClusterBarrier {
  uint32_t phase = 0;  // how often all have arrived
  int arrived = 0;
  std::vector<Thread*> waiting;
  // What each thread of the cluster had done when it arrived, up to which time. There are threads
  // that know of the last phase, of the one before, and that arrive for the next.
  std::vector<Time> until[3];
  Outside outside[3];  // and what they knew by flags
};

struct Block {
  int index = 0;
  int cluster_rank = 0;
  int slot = 0;  // among those that are there
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  Time ordered = 0;  // when something last ordered all its threads
  Time began = 0;
  Outside outside;  // what all its threads know by flags
  int at_barrier = 0;
  int ended = 0;
  NamedBarrier named[kNamedBarriers];
  ClusterBarrier cluster_barrier;  // of the cluster's first block
};

struct Machine {
  Launch launch = {};
  const std::function<void()>* kernel = nullptr;
  std::vector<Block> blocks;  // that are there at the same time
  std::vector<Warp*> ready;
  Fiber scheduler;
  Thread* thread = nullptr;  // that runs now
  Time time = 1;
  Time launched = 1;
  int processors = 132;
  uint64_t switches = 0;
  // What the copy engine has still to do. Any of it may be next, at any time.
  std::vector<std::function<void()>> under_way;
  // Looks at a flag that showed nothing new, since anything last happened.
  uint64_t idle_polls = 0;
};

extern Machine machine __attribute__((visibility("hidden")));

// Ends the process with a message about the running thread.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
// "thread 3 of block 1", "kernel.cuh:12"
std::string name_of(const Thread& thread);
std::string name_of(Place place);
bool same(Place a, Place b);

// A number below `limit` that the seed decides.
uint32_t draw(uint32_t limit);

// Marks a thread as one that can go on.
void release(Thread& thread);
// Lets the others go on; wait_at keeps the running thread out until it is released.
void wait_at(const char* what, Place place);
void yield();

// ---- lanes that do something together ----

// Hands the lanes' payloads to `run` when the last lane has come, and goes on when it has run. All
// lanes have to come to the same place for the same.
using WarpOperation = void (*)(const void* const* payloads, int lanes);
void together(const char* what, const void* payload, WarpOperation run, Place place);

}  // namespace seqkern::emulator
