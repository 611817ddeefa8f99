// One step of a bfloat16 cell by AMX tiles, straight from PyTorch's weight layout.
//
// The products are computed transposed, weights times batch: sixteen rows of a weight matrix are a
// tile as they lie in memory. Only the other factor of a tile product has to be packed, in pairs
// along the depth, and that is the batch, which is small. A block is 16 units of one gate.
#pragma once

#include "recurrent/cpu/step_forward.h"

#ifdef __AMX_BF16__

namespace seqkern {
namespace SEQKERN_ISA {

constexpr int kTileSide = 16;                          // units and rows of the batch in a tile
constexpr int64_t kTileDepth = 32;                     // bfloat16 numbers in a row of a tile
constexpr int64_t kTileSize = kTileSide * kTileDepth;  // and in all of it
constexpr int64_t kTileBytes = 2 * kTileDepth;         // of a row
constexpr int kMostWide = 2;                           // tiles of rows of the batch at a time
constexpr int kSumTiles = 4;

// ---- tiles ----
// Numbers 0 to 3 hold sums, 4 and 5 weights, 6 and 7 rows of the batch. In assembler, because the
// intrinsics want the number as a literal, not as a template's argument.

template <int kTile>
inline void clear_tile() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
}

template <int kTile>
inline void load_tile(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(kTile) : "memory");
}

template <int kTile>
inline void store_tile(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(kTile) : "memory");
}

template <int kSum, int kWeights, int kRows>
inline void add_product() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kWeights), "i"(kRows));
}

// For blocks of so many units.
inline void configure_tiles(int units) {
  struct alignas(64) Configuration {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes_per_row[16] = {};
    uint8_t rows[16] = {};
  } c;
  for (int tile = 0; tile < 8; ++tile) c.bytes_per_row[tile] = kTileBytes;
  for (int tile = 0; tile < 8; ++tile) c.rows[tile] = tile < 6 ? units : kTileSide;
  asm volatile("ldtilecfg %0" : : "m"(c));
}

// ---- the batch ----

struct TiledSizes {
  int64_t tiles;  // of rows of the batch
  int64_t input_tiles, state_tiles;

  explicit TiledSizes(const StepSizes& sizes)
      : tiles(ceil_div(sizes.batch, kTileSide)),
        input_tiles(ceil_div(sizes.inputs, kTileDepth) * tiles),
        state_tiles(ceil_div(sizes.hidden, kTileDepth) * tiles) {}
  int64_t bytes() const {
    return (input_tiles + state_tiles) * kTileSize * int64_t(sizeof(bfloat16));
  }
};

inline __m512i load_depth(const bfloat16* from, int64_t depth) {
  const uint32_t mask = depth >= kTileDepth ? ~uint32_t(0) : (uint32_t(1) << depth) - 1;
  return _mm512_maskz_loadu_epi16(mask, from);
}

// Tile `tile` of [tile of depth][tile of rows] of a (rows x depth): [16 pairs][16 rows][2], with
// zeros past the last row and the last number. Without a all are zero.
inline void pack_batch(const bfloat16* a, int64_t rows, int64_t depth, int64_t tiles, int64_t tile,
                       bfloat16* to) {
  const int64_t k = tile / tiles * kTileDepth, row = tile % tiles * kTileSide;
  alignas(64) bfloat16 lines[kTileSize];
  for (int r = 0; r < kTileSide; ++r) {
    const bool given = a && row + r < rows;
    _mm512_store_si512(
        lines + r * kTileDepth,
        given ? load_depth(a + (row + r) * depth + k, depth - k) : _mm512_setzero_si512());
  }
  transpose(lines, kTileDepth / 2, kTileSide, kTileSide, to, kTileSide);
}

// ---- the products ----

// A factor of one of the two products.
struct TiledPart {
  const bfloat16* operand;  // the packed batch
  int64_t operand_step;     // between tiles of depth
  int64_t depth;
};

struct TiledBlock {
  const bfloat16* w[2];  // its first row in w_ih and in w_hh
  // Where the sums go, [unit][row]. Where `input_out` is given, those of the input go there and
  // only those of the state to `out`.
  float *out, *input_out;
};

constexpr int64_t kOutRow = kMostWide * kTileSide;
constexpr int64_t kOutStride = kOutRow * int64_t(sizeof(float));

// Of the blocks from kBlock on; the sums of a block are in kWide tiles, one for each tile of rows.
template <int kBlock, int kBlocks, int kWide>
__attribute__((always_inline)) inline void add_blocks(const bfloat16* const (&w)[kBlocks],
                                                      int64_t offset, int64_t stride) {
  constexpr int kWeights = 4 + kBlock % 2;
  load_tile<kWeights>(w[kBlock] + offset, stride);
  add_product<kBlock * kWide, kWeights, 6>();
  if constexpr (kWide > 1) add_product<kBlock * kWide + 1, kWeights, 7>();
  if constexpr (kBlock + 1 < kBlocks) add_blocks<kBlock + 1, kBlocks, kWide>(w, offset, stride);
}

template <int kBlock, int kWide>
__attribute__((always_inline)) inline void store_block(float* out) {
  store_tile<kBlock * kWide>(out, kOutStride);
  if constexpr (kWide > 1) store_tile<kBlock * kWide + 1>(out + kTileSide, kOutStride);
}

template <int kBlock, int kWide>
__attribute__((always_inline)) inline void clear_block() {
  clear_tile<kBlock * kWide>();
  if constexpr (kWide > 1) clear_tile<kBlock * kWide + 1>();
}

template <int kBlock, int kBlocks, int kWide>
__attribute__((always_inline)) inline void begin_blocks() {
  clear_block<kBlock, kWide>();
  if constexpr (kBlock + 1 < kBlocks) begin_blocks<kBlock + 1, kBlocks, kWide>();
}

// Takes the sums out where they are wanted after the first part.
template <int kBlock, int kBlocks, int kWide>
__attribute__((always_inline)) inline void take_input_sums(const TiledBlock* blocks) {
  if (blocks[kBlock].input_out) {
    store_block<kBlock, kWide>(blocks[kBlock].input_out);
    clear_block<kBlock, kWide>();
  }
  if constexpr (kBlock + 1 < kBlocks) take_input_sums<kBlock + 1, kBlocks, kWide>(blocks);
}

template <int kBlock, int kBlocks, int kWide>
__attribute__((always_inline)) inline void finish_blocks(const TiledBlock* blocks) {
  store_block<kBlock, kWide>(blocks[kBlock].out);
  if constexpr (kBlock + 1 < kBlocks) finish_blocks<kBlock + 1, kBlocks, kWide>(blocks);
}

template <int kWide>
__attribute__((always_inline)) inline void load_batch(const bfloat16* operand) {
  load_tile<6>(operand, kTileBytes);
  if constexpr (kWide > 1) load_tile<7>(operand + kTileSize, kTileBytes);
}

// Both products of kBlocks blocks of `units` units and kWide tiles of rows of the batch.
template <int kBlocks, int kWide>
void multiply_blocks(const TiledPart (&parts)[2], const TiledBlock* blocks, int units) {
  static_assert(kBlocks * kWide <= kSumTiles, "one tile for each sum");
  begin_blocks<0, kBlocks, kWide>();
  for (int p = 0; p < 2; ++p) {
    const TiledPart& part = parts[p];
    const bfloat16* w[kBlocks];
    for (int b = 0; b < kBlocks; ++b) w[b] = blocks[b].w[p];
    const bfloat16* operand = part.operand;
    int64_t k = 0;
    for (; k + kTileDepth <= part.depth; k += kTileDepth, operand += part.operand_step) {
      load_batch<kWide>(operand);
      add_blocks<0, kBlocks, kWide>(w, k, part.depth * int64_t(sizeof(bfloat16)));
    }
    if (k < part.depth) {
      // The rest of a row, and zeros: what follows it in memory may be infinite, or not there.
      alignas(64) bfloat16 rest[kBlocks][kTileSize];
      const bfloat16* tiles[kBlocks];
      for (int b = 0; b < kBlocks; ++b) {
        for (int u = 0; u < units; ++u)
          _mm512_store_si512(rest[b] + u * kTileDepth,
                             load_depth(w[b] + u * part.depth + k, part.depth - k));
        tiles[b] = rest[b];
      }
      load_batch<kWide>(operand);
      add_blocks<0, kBlocks, kWide>(tiles, 0, kTileBytes);
    }
    if (p == 0) take_input_sums<0, kBlocks, kWide>(blocks);
  }
  finish_blocks<0, kBlocks, kWide>(blocks);
}

// The same for any number of blocks.
inline void multiply_all(const TiledPart (&parts)[2], const TiledBlock* blocks, int count, int wide,
                         int units) {
  for (; wide > 1 && count > 1; count -= 2, blocks += 2)
    multiply_blocks<2, 2>(parts, blocks, units);
  if (count == 0) return;
  if (wide > 1) return multiply_blocks<1, 2>(parts, blocks, units);
  for (; count > 3; count -= 4, blocks += 4) multiply_blocks<4, 1>(parts, blocks, units);
  if (count == 3) return multiply_blocks<3, 1>(parts, blocks, units);
  if (count == 2) return multiply_blocks<2, 1>(parts, blocks, units);
  if (count == 1) return multiply_blocks<1, 1>(parts, blocks, units);
}

// ---- the kernel ----

inline int64_t step_tiled_bytes(StepSizes sizes) {
  return TiledSizes(sizes).bytes();
}

// As long as the batch stays in L2 beside the weights.
inline bool step_tiled_takes(StepSizes sizes) {
  return step_tiled_bytes(sizes) <= int64_t(1) << 20;
}

// The weights have to be read for each pair of tiles of rows; that and the cell.
template <class Shape>
int64_t step_tiled_work(StepSizes sizes) {
  const int64_t weights = Shape::kGates * sizes.hidden * (sizes.inputs + sizes.hidden);
  return weights * TiledSizes(sizes).tiles + sizes.batch * sizes.hidden * Shape::kGates * 20;
}

template <class Shape>
void step_forward_tiled_of(const StepForwardArgs& args, typename Shape::RowsFunction rows,
                           Slots slots, Barrier& barrier) {
  constexpr int kGates = Shape::kGates, kProducts = Shape::kProducts;
  constexpr int kVectors = kGates == 1 ? 4 : 1;  // of units at a time: to fill the tiles for sums
  static_assert(Shape::V::kLanes == kTileSide, "a block is a vector of units");
  const StepSizes& sizes = args.sizes;
  const int64_t inputs = sizes.inputs, hidden = sizes.hidden;
  const TiledSizes tiled(sizes);
  bfloat16* operand = static_cast<bfloat16*>(args.operand);
  for (int64_t i = share_begin(tiled.input_tiles + tiled.state_tiles, slots),
               end = share_end(tiled.input_tiles + tiled.state_tiles, slots);
       i < end; ++i) {
    const bool state = i >= tiled.input_tiles;
    pack_batch(static_cast<const bfloat16*>(state ? args.h0 : args.input), sizes.batch,
               state ? hidden : inputs, tiled.tiles, state ? i - tiled.input_tiles : i,
               operand + i * kTileSize);
  }
  barrier.wait(slots.end - slots.begin);

  const int64_t vectors = ceil_div(hidden, kTileSide), end = share_end(vectors, slots);
  const int units = static_cast<int>(smaller<int64_t>(kTileSide, hidden));
  configure_tiles(units);
  alignas(64) float products[kVectors * kProducts][kTileSide * kOutRow];
  alignas(64) float pre[kOutRow * kProducts * kTileSide];
  for (int64_t vector = share_begin(vectors, slots); vector < end; vector += kVectors) {
    const int count = static_cast<int>(smaller<int64_t>(kVectors, end - vector));
    // The last vector begins early, so that all are whole; only what is new of it is used.
    const auto first_unit = [&](int v) {
      return smaller((vector + v) * kTileSide, hidden - units);
    };
    TiledBlock blocks[kVectors * kGates];
    for (int v = 0; v < count; ++v)
      for (int gate = 0; gate < kGates; ++gate) {
        const int64_t row = gate * hidden + first_unit(v);
        const bool apart = gate == kGates - 1 && kProducts > kGates;
        float (*out)[kTileSide * kOutRow] = products + v * kProducts + gate;
        blocks[v * kGates + gate] = {{static_cast<const bfloat16*>(args.w_ih) + row * inputs,
                                      static_cast<const bfloat16*>(args.w_hh) + row * hidden},
                                     out[apart],
                                     apart ? out[0] : nullptr};
      }
    for (int64_t tile = 0; tile < tiled.tiles; tile += kMostWide) {
      const int wide = static_cast<int>(smaller<int64_t>(kMostWide, tiled.tiles - tile));
      const bfloat16* batch = operand + tile * kTileSize;
      const int64_t step = tiled.tiles * kTileSize;
      const TiledPart parts[2] = {{batch, step, inputs},
                                  {batch + tiled.input_tiles * kTileSize, step, hidden}};
      multiply_all(parts, blocks, count * kGates, wide, units);
      const int64_t row = tile * kTileSide, height = smaller(kOutRow, sizes.batch - row);
      for (int v = 0; v < count; ++v) {
        for (int p = 0; p < kProducts; ++p)
          transpose(products[v * kProducts + p], kOutRow, kTileSide, round_up(height, 4),
                    pre + p * kTileSide, kProducts * kTileSide);
        const int64_t unit = (vector + v) * kTileSide;
        rows(args, unit, static_cast<int>(smaller<int64_t>(kTileSide, hidden - unit)), row, height,
             pre + (unit - first_unit(v)));
      }
    }
  }
  asm volatile("tilerelease");
}

template <class Cell>
void step_forward_tiled(const StepForwardArgs& args, Slots slots, Barrier& barrier) {
  step_forward_tiled_of<typename Cell::Shape>(args, Cell::rows, slots, barrier);
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern

#endif  // __AMX_BF16__
