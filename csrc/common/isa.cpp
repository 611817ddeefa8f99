#include "common/isa.h"

#include <array>
#include <atomic>
#include <cstring>
#include <string>

#ifdef __x86_64__
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace seqkern {

namespace {

#define X(level) #level,
constexpr const char* kNames[] = {SEQKERN_ISA_LEVELS};
#undef X

#ifdef __x86_64__
// AMX needs the processor (CPUID leaf 7, EDX bits 22 and 24) and the kernel's leave to use the tile
// registers.
bool amx_usable() {
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 22 & 1) || !(d >> 24 & 1)) return false;
#ifdef __linux__
  constexpr int kRequestPermission = 0x1023,
                kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

bool detect(const char* level) {
  const auto is = [&](const char* name) { return std::strcmp(level, name) == 0; };
  __builtin_cpu_init();
  if (is("baseline")) return true;
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return false;
  if (is("avx2")) return true;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
    return false;
  if (is("avx512")) return true;
  if (!__builtin_cpu_supports("avx512bf16")) return false;
  if (is("avx512_bf16")) return true;
  return is("amx") && amx_usable();
}
#else
bool detect(const char* level) {
  return std::strcmp(level, "baseline") == 0;
}
#endif

const std::array<bool, kIsaLevels>& available() {
  static const auto levels = [] {
    std::array<bool, kIsaLevels> found{};
    for (int i = 0; i < kIsaLevels; ++i) found[i] = detect(kNames[i]);
    return found;
  }();
  return levels;
}

std::atomic<int>& current() {
  static std::atomic<int> level = [] {
    int highest = 0;
    for (int i = 0; i < kIsaLevels; ++i)
      if (available()[i]) highest = i;
    return highest;
  }();
  return level;
}

}  // namespace

bool isa_available(Isa level) {
  return available()[static_cast<int>(level)];
}

Isa isa_in_use() {
  return static_cast<Isa>(current().load(std::memory_order_relaxed));
}

}  // namespace seqkern

// The C functions that seqkern/core/library.py calls.
#ifdef __clang__
#define SEQKERN_COMPILER "Clang"
#else
#define SEQKERN_COMPILER "GCC"
#endif
#define SEQKERN_EXPORT extern "C" __attribute__((visibility("default")))

SEQKERN_EXPORT const char* seqkern_isa() {
  return seqkern::kNames[static_cast<int>(seqkern::isa_in_use())];
}

// Space-separated, low to high: the levels that are built and that this machine can run.
SEQKERN_EXPORT const char* seqkern_isa_levels() {
  static const std::string levels = [] {
    std::string names;
    for (int i = 0; i < seqkern::kIsaLevels; ++i)
      if (seqkern::available()[i])
        names += (names.empty() ? "" : " ") + std::string(seqkern::kNames[i]);
    return names;
  }();
  return levels.c_str();
}

// Returns 0, or 1 if the level is unknown, not built or not available here; the level in use is
// then unchanged.
SEQKERN_EXPORT int seqkern_set_isa(const char* name) {
  for (int i = 0; i < seqkern::kIsaLevels; ++i)
    if (std::strcmp(name, seqkern::kNames[i]) == 0 && seqkern::available()[i]) {
      seqkern::current().store(i, std::memory_order_relaxed);
      return 0;
    }
  return 1;
}

#define X(level) " " #level
SEQKERN_EXPORT const char* seqkern_build_info() {
  return SEQKERN_COMPILER " " __VERSION__ ", levels" SEQKERN_ISA_LEVELS;
}
#undef X
