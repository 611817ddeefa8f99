#include "emulator.h"

#include <ucontext.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <list>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace seqkern::emulator {
namespace {

constexpr int kWarp = 32;
constexpr size_t kStackBytes = 128 * 1024;

struct Range {
  std::string name;
  const char* begin;
  size_t bytes;
  bool writable;

  bool holds(const char* address, size_t size) const {
    return address >= begin && address + size <= begin + bytes;
  }
};

struct SharedArray {
  const char* file;
  int line;
  std::unique_ptr<char[]> bytes;
  Range range;
};

struct Place {
  const char* file;
  int line;

  bool operator==(const Place& other) const {
    return line == other.line && std::strcmp(file, other.file) == 0;
  }
};

enum class State { kReady, kAtBarrier, kAtShuffle, kFinished };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  State state;
  Place place;        // of the barrier or shuffle that it waits at
  uint64_t exchange;  // what it hands over in a shuffle
};

// One launch at a time: what is running now. Plain globals, because kernels are free functions.
std::list<Range> buffers;
std::mt19937_64 generator(0);
std::list<SharedArray> shared_arrays;
std::vector<Fiber> fibers;
ucontext_t scheduler;
const std::function<void()>* kernel_body;
int current_thread, current_block, block_threads, grid_blocks;

[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
void fail(const char* format, ...) {
  std::fprintf(stderr, "CUDA emulator: thread %d of block %d: ", current_thread, current_block);
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fputc('\n', stderr);
  std::abort();
}

// ---- memory ----

// The buffer that an out-of-bounds address was probably meant for.
const Range* nearest(const char* address) {
  const Range* best = nullptr;
  size_t best_distance = SIZE_MAX;
  const auto consider = [&](const Range& range) {
    const char* end = range.begin + range.bytes;
    const size_t distance = address < range.begin ? range.begin - address
                            : address >= end      ? address - end
                                                  : 0;
    if (distance < best_distance) {
      best_distance = distance;
      best = &range;
    }
  };
  for (const Range& range : buffers) consider(range);
  for (const SharedArray& array : shared_arrays) consider(array.range);
  return best;
}

void check(const void* address, size_t size, bool write) {
  const char* at = static_cast<const char*>(address);
  if (reinterpret_cast<uintptr_t>(address) % size != 0) {
    fail("misaligned %s of %zu bytes", write ? "write" : "read", size);
  }
  for (const SharedArray& array : shared_arrays) {
    if (array.range.holds(at, size)) return;
  }
  for (const Range& range : buffers) {
    if (!range.holds(at, size)) continue;
    if (!write || range.writable) return;
    fail("write into the read-only buffer '%s' at byte %td", range.name.c_str(), at - range.begin);
  }
  const Range* range = nearest(at);
  if (range == nullptr) fail("access to memory although no buffer is registered");
  fail("out-of-bounds %s of %zu bytes at byte %td of '%s', which has %zu bytes",
       write ? "write" : "read", size, at - range->begin, range->name.c_str(), range->bytes);
}

// ---- threads ----

void fiber_main() {
  (*kernel_body)();
  fibers[current_thread].state = State::kFinished;
  swapcontext(&fibers[current_thread].context, &scheduler);
}

void start(Fiber& fiber) {
  getcontext(&fiber.context);
  if (!fiber.stack) fiber.stack.reset(new char[kStackBytes]);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  fiber.state = State::kReady;
  makecontext(&fiber.context, fiber_main, 0);
}

// Leaves the running fiber until the scheduler finds that all partners wait at the same place.
void wait(State state, Place place) {
  Fiber& self = fibers[current_thread];
  self.state = state;
  self.place = place;
  swapcontext(&self.context, &scheduler);
}

std::vector<int> shuffled(int count) {
  std::vector<int> order(count);
  for (int i = 0; i < count; ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), generator);
  return order;
}

// Runs every ready fiber until it waits or ends.
void run_ready_fibers() {
  for (const int thread : shuffled(block_threads)) {
    if (fibers[thread].state != State::kReady) continue;
    current_thread = thread;
    swapcontext(&scheduler, &fibers[thread].context);
  }
}

const char* describe(const Fiber& fiber) {
  switch (fiber.state) {
    case State::kAtBarrier:
      return "waits at a barrier";
    case State::kAtShuffle:
      return "waits at a shuffle";
    default:
      return "has ended";
  }
}

// Whether the threads [begin, end) all wait in `state`, at one place.
bool together(int begin, int end, State state) {
  return std::all_of(fibers.begin() + begin, fibers.begin() + end, [&](const Fiber& fiber) {
    return fiber.state == state && fiber.place == fibers[begin].place;
  });
}

void release(int begin, int end) {
  for (int thread = begin; thread < end; ++thread) fibers[thread].state = State::kReady;
}

bool release_shuffles() {
  bool released = false;
  for (int begin = 0; begin < block_threads; begin += kWarp) {
    const int end = std::min(begin + kWarp, block_threads);
    if (!together(begin, end, State::kAtShuffle)) continue;
    release(begin, end);
    released = true;
  }
  return released;
}

// The first thread that does something else than `waiting`, which is why neither can go on.
[[noreturn]] void fail_divergent(int waiting) {
  const Fiber& a = fibers[waiting];
  const int begin = a.state == State::kAtShuffle ? waiting / kWarp * kWarp : 0;
  for (int thread = begin;; ++thread) {
    const Fiber& b = fibers[thread];
    if (b.state == a.state && b.place == a.place) continue;
    current_thread = waiting;
    fail("divergent synchronisation: it %s at %s:%d, but thread %d %s%s", describe(a), a.place.file,
         a.place.line, thread, describe(b),
         b.state == State::kFinished
             ? ""
             : (" at " + std::string(b.place.file) + ":" + std::to_string(b.place.line)).c_str());
  }
}

void run_block() {
  shared_arrays.clear();
  for (Fiber& fiber : fibers) start(fiber);
  for (;;) {
    run_ready_fibers();
    if (release_shuffles()) continue;
    const auto waiting = std::find_if(fibers.begin(), fibers.end(), [](const Fiber& fiber) {
      return fiber.state != State::kFinished;
    });
    if (waiting == fibers.end()) return;
    if (!together(0, block_threads, State::kAtBarrier)) fail_divergent(waiting - fibers.begin());
    release(0, block_threads);
  }
}

}  // namespace

Buffer::Buffer(const char* name, const void* begin, size_t bytes) {
  buffers.push_front({name, static_cast<const char*>(begin), bytes, false});
}

Buffer::Buffer(const char* name, void* begin, size_t bytes) {
  buffers.push_front({name, static_cast<const char*>(begin), bytes, true});
}

// Buffers are local variables, so the one that ends is the one that came last.
Buffer::~Buffer() {
  buffers.pop_front();
}

void set_seed(uint64_t seed) {
  generator.seed(seed);
}

void run(int blocks, int threads, const std::function<void()>& kernel) {
  kernel_body = &kernel;
  grid_blocks = blocks;
  block_threads = threads;
  fibers = std::vector<Fiber>(threads);
  for (const int block : shuffled(blocks)) {
    current_block = block;
    run_block();
  }
  shared_arrays.clear();
}

int thread() {
  return current_thread;
}
int block() {
  return current_block;
}
int threads() {
  return block_threads;
}
int blocks() {
  return grid_blocks;
}

void barrier(const char* file, int line) {
  wait(State::kAtBarrier, {file, line});
}

uint64_t shuffle_xor(uint64_t bits, int mask, const char* file, int line) {
  const int self = current_thread;
  const int partner = self ^ mask;
  if (mask < 0 || mask >= kWarp) fail("shuffle_xor with the mask %d, which leaves the warp", mask);
  if (partner >= block_threads) fail("shuffle_xor with thread %d, which is not there", partner);
  fibers[self].exchange = bits;
  wait(State::kAtShuffle, {file, line});
  const uint64_t received = fibers[partner].exchange;
  // Nobody may hand over the next value before everyone has read this one.
  wait(State::kAtShuffle, {file, line});
  return received;
}

void* shared_memory(const char* name, size_t bytes, const char* file, int line) {
  for (SharedArray& array : shared_arrays) {
    if (Place{array.file, array.line} == Place{file, line}) return array.bytes.get();
  }
  std::unique_ptr<char[]> storage(new char[bytes]);
  std::memset(storage.get(), 0xff, bytes);  // NaN in every floating point type
  char* begin = storage.get();
  shared_arrays.push_back({file, line, std::move(storage), {name, begin, bytes, true}});
  return begin;
}

void check_read(const void* address, size_t bytes) {
  check(address, bytes, false);
}
void check_write(const void* address, size_t bytes) {
  check(address, bytes, true);
}

}  // namespace seqkern::emulator
