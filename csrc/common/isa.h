// The instruction set levels that kernels are compiled for, and the one in use.
//
// A file named *_isa.cpp is compiled once per level, each time in a namespace of the level's name
// (the macro SEQKERN_ISA). The build passes the levels that the compiler knows, low to high, as
// SEQKERN_ISA_LEVELS="X(baseline) X(avx2) ...".
#pragma once

// In a *_isa.cpp file: whether it is compiled for this level or one above, so that the levels below
// have filled the tables already. The compiler's own macros (__AVX512BF16__) do not say that: with
// CXXFLAGS=-march=native every level has them.
#ifdef SEQKERN_ISA
#define SEQKERN_LEVEL_baseline 0
#define SEQKERN_LEVEL_avx2 1
#define SEQKERN_LEVEL_avx512 2
#define SEQKERN_LEVEL_avx512_bf16 3
#define SEQKERN_LEVEL_amx 4
#define SEQKERN_LEVEL_OF(level) SEQKERN_LEVEL_##level
#define SEQKERN_LEVEL(level) SEQKERN_LEVEL_OF(level)
#define SEQKERN_ISA_FROM(level) (SEQKERN_LEVEL(SEQKERN_ISA) >= SEQKERN_LEVEL_OF(level))
#endif

namespace seqkern {

#ifdef SEQKERN_ISA_LEVELS
#define SEQKERN_ISA_ENUMERATOR(level) level,
#define X SEQKERN_ISA_ENUMERATOR
enum class Isa { SEQKERN_ISA_LEVELS count };
#undef X
#undef SEQKERN_ISA_ENUMERATOR

constexpr int kIsaLevels = static_cast<int>(Isa::count);

// Whether this machine (processor and operating system) can run a level.
bool isa_available(Isa level);

// The level in use: the highest available one, unless seqkern_set_isa chose another.
Isa isa_in_use();
#endif

}  // namespace seqkern
