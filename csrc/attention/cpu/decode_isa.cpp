// The decoding kernels of one ISA level; compiled once per level.
#include "attention/cpu/decode.h"
#include "attention/cpu/decode_bf16.h"
#include "attention/cpu/decode_fma.h"
#include "common/isa.h"

namespace seqkern {
namespace SEQKERN_ISA {

#if SEQKERN_ISA_FROM(amx)
// One of two sets of products, by the call's dimensions. (Not DecodeDots: on processors with AMX,
// vdpbf16ps is slower than the two FMAs that it stands for.)
template <class P, class Otherwise>
DecodeKernels either() {
  static_assert(P::kChunk == Otherwise::kChunk);
  return {
      P::kChunk,
      [](const Problem& p, int64_t rows) {
        return P::takes(p) ? decode_own_bytes<P>(p, rows) : decode_own_bytes<Otherwise>(p, rows);
      },
      [](const Problem& p, int64_t rows) {
        return P::takes(p) ? decode_partial_bytes<P>(p, rows)
                           : decode_partial_bytes<Otherwise>(p, rows);
      },
      [](const Problem& p, const DecodePiece& piece, char* partial, char* own) {
        (P::takes(p) ? decode_piece<P> : decode_piece<Otherwise>)(p, piece, partial, own);
      },
      [](const Problem& p, int64_t rows, char* first_pieces, const char* next_piece) {
        (P::takes(p) ? decode_fold<P> : decode_fold<Otherwise>)(p, rows, first_pieces, next_piece);
      },
      [](const ForwardCall& call, int64_t b, int64_t kv_head, const char* result, char* own) {
        (P::takes(call.problem) ? decode_finish<P> : decode_finish<Otherwise>)(call, b, kv_head,
                                                                               result, own);
      }};
}
#endif

// Fills the table that decode_kernels() reads. A level that has nothing new for a type leaves its
// entry as the level below filled it.
void fill_decode_kernels(DecodeKernels* by_storage) {
#if SEQKERN_ISA_FROM(amx)
  by_storage[int(Storage::kBfloat16)] = either<DecodeAmx, DecodeFma<bfloat16>>();
#elif SEQKERN_ISA_FROM(avx512_bf16)
  by_storage[int(Storage::kBfloat16)] = decode_kernels_of<DecodeDots>();
#else
  by_storage[int(Storage::kFloat)] = decode_kernels_of<DecodeFma<float>>();
  by_storage[int(Storage::kDouble)] = decode_kernels_of<DecodeFma<double>>();
  by_storage[int(Storage::kBfloat16)] = decode_kernels_of<DecodeFma<bfloat16>>();
#endif
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
