#include "fibers.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#ifndef __x86_64__
#include <ucontext.h>
#endif

namespace seqkern::emulator {
namespace {

// What the far end of a stack holds until something runs over it.
constexpr char kCanary[64] = "Whoever reads this has used up the whole stack of its fiber.";

}  // namespace

#ifdef __x86_64__

// The System V ABI: a function keeps rbx, rbp, r12 to r15 and the stack pointer; all else is the
// caller's to save. swapcontext() does the same with two system calls for the signal mask.
asm(R"(
  .text
  .type seqkern_hand_over, @function
seqkern_hand_over:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq (%rsi), %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size seqkern_hand_over, . - seqkern_hand_over
)");
extern "C" __attribute__((visibility("hidden"))) void seqkern_hand_over(void** from, void** to);

constexpr size_t kReserved = 0;

void Fiber::start(char* stack, size_t stack_bytes, void (*entry)()) {
  stack_ = stack;
  std::memcpy(stack_, kCanary, sizeof(kCanary));
  // What seqkern_hand_over pops: six registers and the return address. It lies at a multiple of 16,
  // so that the stack pointer is 8 past one when `entry` begins, as after a call.
  auto top = reinterpret_cast<uintptr_t>(stack + stack_bytes) / 16 * 16 - 16;
  std::memcpy(reinterpret_cast<void*>(top), &entry, sizeof(entry));
  state_ = reinterpret_cast<void*>(top - 6 * sizeof(void*));
}

void Fiber::hand_over(Fiber& from, Fiber& to) {
  seqkern_hand_over(&from.state_, &to.state_);
}

#else

// The context lies at the low end of the stack, past the canary.
constexpr size_t kReserved = (sizeof(ucontext_t) + 63) / 64 * 64;

void Fiber::start(char* stack, size_t stack_bytes, void (*entry)()) {
  stack_ = stack;
  auto* context = reinterpret_cast<ucontext_t*>(stack);
  getcontext(context);
  context->uc_stack.ss_sp = stack + kReserved;
  context->uc_stack.ss_size = stack_bytes - kReserved;
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
  std::memcpy(stack + kReserved, kCanary, sizeof(kCanary));
  state_ = context;
}

void Fiber::hand_over(Fiber& from, Fiber& to) {
  static ucontext_t scheduler;  // the one that was never started
  if (from.state_ == nullptr) from.state_ = &scheduler;
  swapcontext(static_cast<ucontext_t*>(from.state_), static_cast<ucontext_t*>(to.state_));
}

#endif

bool Fiber::overflowed() const {
  return std::memcmp(stack_ + kReserved, kCanary, sizeof(kCanary)) != 0;
}

char* map_memory(size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    std::fprintf(stderr, "CUDA emulator: no address space for %zu bytes\n", bytes);
    std::abort();
  }
#ifdef MADV_NOHUGEPAGE
  // A huge page would be taken whole for its first byte, and most of this is never touched.
  madvise(memory, bytes, MADV_NOHUGEPAGE);
#endif
  return static_cast<char*>(memory);
}

void unmap_memory(char* begin, size_t bytes) {
  if (begin != nullptr) munmap(begin, bytes);
}

Stacks::~Stacks() {
  unmap_memory(begin_, count_ * kBytes);
}

void Stacks::reserve(size_t count) {
  if (count <= count_) return;
  unmap_memory(begin_, count_ * kBytes);
  begin_ = map_memory(count * kBytes);
  count_ = count;
}

}  // namespace seqkern::emulator
