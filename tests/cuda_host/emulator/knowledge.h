// What orders threads. A thread knows of what others did until some time: of its block's since the
// last barrier, of its warp's since the last warp_sync(), of whose it waited for, and of what those
// knew.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "../emulator.h"

namespace seqkern::emulator {

struct Thread;
struct Warp;
struct Block;

// Counts events that order threads. What was done at time t came before an event at a later time.
using Time = uint32_t;

// Of threads of the whole grid, by flags in memory.
struct Outside {
  std::vector<Time> blocks;     // of all threads of each block
  std::map<int, Time> threads;  // of single ones, by their number in the grid
  bool empty() const { return blocks.empty() && threads.empty(); }
  void add(const Outside& other);
  Time until(int thread) const;
};

// Number in the grid.
int grid_index(const Thread& thread);
// Until when `self` knows of what the thread with this number in the grid did.
Time known_until(const Thread& self, int other);

// Each of these knows of all that the others did until now.
void order(Warp& warp);
void order(Block& block);
void order(const std::vector<Thread*>& threads);

// What a thread that arrives somewhere leaves for those that wait there.
class Knowledge {
 public:
  // All that it did and knows. machine.time has to go on before it does more.
  void add(const Thread& thread);
  void add(const Knowledge& other);
  void give(Thread& thread) const;  // it knows it from now on

 private:
  std::vector<Time> until_;  // of each thread of the cluster
  Outside outside_;
};

// Whether anything in this thread's cluster joined other threads than all of a warp, block or
// cluster, so that what they know of each other differs from thread to thread.
bool by_pairs(const Thread& thread);

// All that a thread did and knows, for threads of any block.
Outside everything_known(const Thread& thread);
void learn(Thread& thread, const Outside& outside);

// Blocks come, of a new launch or after others of the same.
void forget_launch();
void forget_blocks();

}  // namespace seqkern::emulator
