// Runs CUDA kernels on the CPU, for tests: each CUDA thread is a fiber. The blocks of a cooperative
// launch are all there at the same time, those of a cluster too; others come one after the other.
// Which warp goes on next, and in which order its lanes do, is drawn from a seed, so a missing
// barrier shows as a result that depends on the seed. The process aborts with a message on
//   - an access outside every registered buffer and outside the block's shared memory, a misaligned
//     one, or a write into a buffer that was registered as read-only,
//   - two threads that touch the same memory, one of them writing, with nothing in between that
//     orders them: barriers, and flags that are written with release and read with acquire,
//   - a barrier or a warp's operation that not all threads of the block or warp reach at the same
//     place,
//   - threads that all wait, or look at flags that nobody sets any more.
// Shared memory starts as NaN in each block, and is NaN where an asynchronous copy is under way.
//
// Not modelled: caches, bank conflicts, time, and numbers that come out of order other than by a
// race.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

namespace seqkern {

struct Place {
  const char* file;
  int line;
};

namespace emulator {

// While it lives, kernels may access these bytes.
class Buffer {
 public:
  Buffer(const char* name, const void* begin, size_t bytes);  // read-only
  Buffer(const char* name, void* begin, size_t bytes);
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer();
};

void set_seed(uint64_t seed);

// The emulated GPU, for launches whose blocks are all there at the same time: 132 processors, as
// an H100 has, unless it is told otherwise. Each holds 2048 threads and 227 KiB of shared memory.
void set_processors(int count);
int most_resident_blocks(int threads, int dynamic_shared);

// Switches between fibers since the process started, to judge the emulator's speed by.
uint64_t switches();

struct Launch {
  int blocks;
  int threads;
  int dynamic_shared;  // bytes
  int cluster;         // blocks
  bool cooperative;
};

// Runs `kernel` once for every thread of a grid.
void run(const Launch& launch, const std::function<void()>& kernel);

// ---- for csrc/common/device/*.cuh: what a running kernel asks for ----

int thread();
int block();
int threads();
int blocks();

// The block's array that is declared at this place; all its threads get the same one.
void* shared_memory(const char* name, size_t bytes, Place place);
void* dynamic_shared_memory(Place place);
void check_read(const void* address, size_t bytes, Place place);
void check_write(const void* address, size_t bytes, Place place);
void check_global(const void* address, Place place);

// What an atomic access says about those before or after it.
enum class Order { kRelaxed, kAcquire, kRelease };

// An atomic read. It lets other threads go on from time to time.
template <class Word>
Word poll(const void* address, Order order, Place place);
// Around an atomic write, or an update, which hands on what was released before it.
void begin_atomic(const void* address, size_t bytes, Place place);
void end_atomic(const void* address, bool changed, Order order, bool update);
void fence();

void barrier(Place place);
void named_barrier(int id, int count, bool wait, Place place);
void warp_sync(Place place);

enum class Shuffle { kXor, kDown, kUp, kIndex };
uint64_t shuffle(Shuffle kind, uint64_t bits, int argument, Place place);
uint32_t ballot(bool vote, Place place);

enum class Operand { kBfloat16, kFloat16, kTf32 };
void multiply_add(Operand operand, float* sum, const uint32_t* a, const uint32_t* b, Place place);
void load_matrix(uint32_t* registers, int count, bool transposed, const void* row, Place place);

void copy_async(void* shared, const void* global, int bytes, int valid, Place place);
void commit_copies(Place place);
void wait_copies(int pending, Place place);

int cluster_rank();
int cluster_blocks();
void cluster_arrive(Place place);
void cluster_wait(Place place);
void* map_shared_rank(const void* shared, int rank, Place place);

void init_arrivals(void* arrivals, int count, Place place);
void arrive(void* arrivals, int announced_bytes, Place place);
bool phase_has_ended(const void* arrivals, int parity, Place place);

// A matrix of which copy_tile() takes tiles; sizes and the stride in elements.
struct TileMap {
  const char* base;
  int element;  // bytes
  int64_t rows, columns, stride;
  int tile_rows, tile_columns;
  bool swizzled;
};
TileMap make_tile_map(const void* base, int element, int64_t rows, int64_t columns, int64_t stride,
                      int tile_rows, int tile_columns, bool swizzled);
void copy_bulk(void* shared, const void* global, int bytes, void* arrivals, Place place);
void copy_tile(void* shared, const TileMap& map, int row, int column, void* arrivals, Place place);
void store_bulk(void* global, const void* shared, int bytes, Place place);
void wait_bulk_stores(Place place);

// Rounded to the nearest, ties to even (tf32: away from zero). A NaN stays a NaN.
float float16_to_float(uint16_t bits);
uint16_t float_to_float16(float x);
uint16_t float_to_bfloat16(float x);
uint32_t float_to_tf32(float x);

// ---- inline ----

void check_poll(const void* address, size_t bytes, Place place);
void saw(const void* address, Order order);
void published(const void* address, Order order, bool update);
// `word` is what was read this time: a thread that reads the same again and again waits for
// somebody.
void polled(const void* address, uint64_t word, int bytes, Place place);

template <class Word>
Word poll(const void* address, Order order, Place place) {
  check_poll(address, sizeof(Word), place);
  const Word word = *static_cast<const volatile Word*>(address);
  saw(address, order);
  polled(address, word, sizeof(Word), place);
  return word;
}

}  // namespace emulator
}  // namespace seqkern
