// What decoding (few queries against many keys; compiled once) and its kernels (compiled once per
// ISA level) agree on.
#pragma once

#include "attention/cpu/kernels.h"

namespace seqkern {

// Part of a unit: the keys [first, end) of one key/value head of one sequence, for all the rows
// (queries of the heads that read it) of that sequence.
struct DecodePiece {
  int64_t batch, kv_head, first, end;
};

struct DecodeKernels {
  int64_t chunk;  // keys that are worked on at once: pieces had better hold a multiple of it
  // Bytes of scratch for each callback, and of a piece's result, for `rows` rows at most.
  int64_t (*own_bytes)(const Problem&, int64_t rows);
  int64_t (*partial_bytes)(const Problem&, int64_t rows);
  // Reads the piece's keys and values once and writes its result: for each row the maximum of the
  // scores, the sum of the exponentials and the sum of the values that they weight.
  void (*run)(const Problem&, const DecodePiece&, char* partial, char* own);
  // Adds the result of the piece that comes next to that of a unit's first pieces.
  void (*fold)(const Problem&, int64_t rows, char* first_pieces, const char* next_piece);
  // Writes output and lse of a unit from the result of all its pieces; null: it has none.
  void (*finish)(const ForwardCall&, int64_t batch, int64_t kv_head, const char* result, char* own);
};

// The kernels of the ISA level in use.
const DecodeKernels& decode_kernels(Storage storage);

}  // namespace seqkern
