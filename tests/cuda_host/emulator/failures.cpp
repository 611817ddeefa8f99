#include "failures.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace seqkern::emulator {
namespace {

// Who waits in the same way at the same place: "block 0: threads 0 to 31 wait at a barrier ...".
void describe_waiting() {
  constexpr int kMostLines = 40;
  int lines = 0, ended = 0;
  for (const Block& block : machine.blocks) {
    const auto& threads = block.threads;
    for (size_t begin = 0; begin < threads.size();) {
      size_t end = begin + 1;
      const Thread& first = threads[begin];
      while (end < threads.size() && threads[end].ended == first.ended &&
             threads[end].waits_at == first.waits_at && same(threads[end].place, first.place)) {
        ++end;
      }
      if (first.ended) {
        ended += end - begin;
      } else if (++lines <= kMostLines) {
        std::fprintf(stderr, "  block %d, threads %zu to %zu %s %s at %s\n", block.index, begin,
                     end - 1, first.waits_at ? "wait at" : "look at",
                     first.waits_at ? first.waits_at : "a flag", name_of(first.place).c_str());
      }
      begin = end;
    }
  }
  if (lines > kMostLines) std::fprintf(stderr, "  and so on\n");
  if (ended > 0) std::fprintf(stderr, "  %d threads have ended\n", ended);
}

[[noreturn]] void end_with(const char* message) {
  std::fprintf(stderr, "CUDA emulator: %s\n", message);
  describe_waiting();
  std::abort();
}

}  // namespace

std::string name_of(const Thread& thread) {
  return "thread " + std::to_string(thread.index) + " of block " +
         std::to_string(thread.block->index);
}

std::string name_of(Place place) {
  return (place.file ? place.file : "?") + (":" + std::to_string(place.line));
}

bool same(Place a, Place b) {
  return a.line == b.line &&
         (a.file == b.file || (a.file && b.file && std::strcmp(a.file, b.file) == 0));
}

void fail(const char* format, ...) {
  std::fprintf(stderr, "CUDA emulator: ");
  if (machine.thread) std::fprintf(stderr, "%s: ", name_of(*machine.thread).c_str());
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fputc('\n', stderr);
  std::abort();
}

void fail_divergent(const Thread& waiting, const Thread& other) {
  std::string does = "has ended";
  if (!other.ended) {
    does = other.waits_at ? std::string("waits at ") + other.waits_at : "looks at a flag";
    does += " at " + name_of(other.place);
  }
  end_with((name_of(waiting) + ": divergent synchronisation: it waits at " + waiting.waits_at +
            " at " + name_of(waiting.place) + ", but thread " + std::to_string(other.index) + " " +
            does)
               .c_str());
}

void fail_stuck() {
  for (const Block& block : machine.blocks) {
    // A warp's lanes first: they may keep the block from its barrier.
    for (const Warp& warp : block.warps) {
      if (warp.arrived == 0) continue;
      const Thread* waiting = nullptr;
      for (int i = 0; i < warp.count; ++i) {
        if (warp.payloads[i] != nullptr) waiting = &warp.lanes[i];
      }
      for (int i = 0; i < warp.count; ++i) {
        if (warp.payloads[i] == nullptr) fail_divergent(*waiting, warp.lanes[i]);
      }
    }
    if (block.at_barrier == 0) continue;
    const Thread *waiting = nullptr, *other = nullptr;
    for (const Thread& thread : block.threads) {
      const bool there = thread.waits_at && std::strcmp(thread.waits_at, kBlockBarrier) == 0;
      if (there && !waiting) waiting = &thread;
      // One that waits for another block is not what is wrong here.
      if (!there && !other && (thread.ended || thread.waits_at)) other = &thread;
    }
    if (waiting && other) fail_divergent(*waiting, *other);
  }
  end_with(machine.launch.cooperative
               ? "deadlock: no thread can go on"
               : "deadlock: no thread can go on (this launch is not cooperative, so not all of its "
                 "blocks are there)");
}

}  // namespace seqkern::emulator
