// The matrix product of one ISA level; compiled once per level.
//
// The sum over k is cut into blocks, so that a panel of B stays in L2 while all
// rows of A pass over it. A is read in place where its rows are contiguous; else a block of its
// rows is packed, k by k. The blocks do not depend on the number of threads, nor do the bits of the
// result. (Smaller blocks, for panels that stay in L1, change nothing.)
#include "common/fma_tile.h"
#include "common/isa.h"
#include "common/matmul_kernels.h"

namespace seqkern {
namespace SEQKERN_ISA {

namespace {

constexpr int kPanelVectors = 4;
constexpr int kTileRows = fma_tile_rows(kPanelVectors);
constexpr int64_t kTilesPerBlock = 16;  // of packed rows of A
constexpr int64_t kBlockRows = kTilesPerBlock * kTileRows;
constexpr int64_t kDepthBytes = 2048;  // of a block of k: 512 floats

template <class T>
constexpr int64_t kPanel = kPanelVectors * Vec<T>::kLanes;

template <class T>
constexpr int64_t kMostDepth = kDepthBytes / int64_t(sizeof(T));

// A range of k in `count` nearly equal parts of at most `most`, each a multiple of four.
struct DepthParts {
  int64_t depth, count;

  DepthParts(int64_t depth_, int64_t most) : depth(depth_), count(ceil_div(depth_, most)) {}
  int64_t begin(int64_t i) const { return smaller(depth, round_up(ceil_div(depth * i, count), 4)); }
};

// What tiles prefetch beside their work: first the next panel, then the rows of A that will be
// packed next, a line of each k by one tile.
template <class T>
class Fetch {
 public:
  Fetch(const T* panel, int64_t panel_size, const T* rows, int64_t rows_stride, int64_t count)
      : panel_(reinterpret_cast<const char*>(panel)),
        bytes_(panel_size * int64_t(sizeof(T))),
        rows_(reinterpret_cast<const char*>(rows)),
        stride_(rows_stride * int64_t(sizeof(T))),
        lines_(count * int64_t(sizeof(T)) / kLineBytes) {}

  Ahead during(int64_t depth, int64_t height) {
    const int lines = ahead_lines(static_cast<int>(height));
    if (fetched_ < bytes_) {
      const Ahead ahead = {panel_ + fetched_, kLineBytes};
      fetched_ += depth * lines * kLineBytes;
      return ahead;
    }
    if (lines == 1 && line_ < lines_) return {rows_ + line_++ * kLineBytes, stride_};
    return {rows_, 0};
  }

 private:
  const char* panel_;
  int64_t bytes_, fetched_ = 0;
  const char* rows_;
  int64_t stride_, lines_, line_ = 0;
};

// One tile of a product, put into `out` or added to what stands there.
template <class T, int kVectors, int kRows = fma_tile_rows(kVectors)>
void tile_of(int64_t rows, const T* a, int64_t a_stride, int64_t a_step, int64_t depth, const T* w,
             Ahead ahead, T* out, int64_t out_stride, int columns, bool add) {
  if (rows != kRows) {
    if constexpr (kRows > 1)
      tile_of<T, kVectors, kRows - 1>(rows, a, a_stride, a_step, depth, w, ahead, out, out_stride,
                                      columns, add);
    return;
  }
  constexpr int kLanes = Vec<T>::kLanes;
  // One sum each, so that the height of a tile does not show in the bits.
  fma_tile<kRows, kVectors, 1>(a, a_stride, a_step, depth, w, kPanel<T>, ahead,
                               [&](int r, int v, Vec<T> total) __attribute__((always_inline)) {
                                 T* to = out + r * out_stride + v * kLanes;
                                 const int n = v < kVectors - 1 ? kLanes : columns - v * kLanes;
                                 store_first(to, add ? total + load_first(to, n) : total, n);
                               });
}

template <class T, int kVectors = kPanelVectors>
void tile(int64_t rows, const T* a, int64_t a_stride, int64_t a_step, int64_t depth, const T* w,
          Ahead ahead, T* out, int64_t out_stride, int columns, bool add) {
  if constexpr (kVectors > 1)
    if (columns <= (kVectors - 1) * Vec<T>::kLanes)
      return tile<T, kVectors - 1>(rows, a, a_stride, a_step, depth, w, ahead, out, out_stride,
                                   columns, add);
  tile_of<T, kVectors>(rows, a, a_stride, a_step, depth, w, ahead, out, out_stride, columns, add);
}

// Tiles [first, first + tiles) of nearly equal height, which the rows are cut into.
struct Tiles {
  int64_t rows, count;

  explicit Tiles(int64_t rows_) : rows(rows_), count(ceil_div(rows_, kTileRows)) {}
  int64_t begin(int64_t i) const { return rows * i / count; }
};

// Rows [row, row + rows) of columns [k, k + depth) of a, one tile after another: each k by k, its
// rows side by side.
template <class T>
void pack_rows(const MatrixView& a, int64_t row, const Tiles& tiles, int64_t k, int64_t depth,
               T* to) {
  const T* from = static_cast<const T*>(a.data) + row * a.row_stride + k * a.column_stride;
  // A few k at a time, so that the next tile finds their lines in L1.
  constexpr int64_t kDepth = 32;
  for (int64_t begin = 0; begin < depth; begin += kDepth) {
    const int64_t end = smaller(depth, begin + kDepth);
    for (int64_t t = 0; t < tiles.count; ++t) {
      const int64_t first = tiles.begin(t), height = tiles.begin(t + 1) - first;
      const T* source = from + first + begin * a.column_stride;
      T* target = to + first * depth + begin * height;
      if (height == kTileRows) {
        for (int64_t j = begin; j < end; ++j, source += a.column_stride, target += kTileRows)
          std::memcpy(target, source, kTileRows * sizeof(T));
      } else {
        for (int64_t j = begin; j < end; ++j, source += a.column_stride, target += height)
          for (int64_t r = 0; r < height; ++r) target[r] = source[r];
      }
    }
  }
}

template <class T>
void pack_panels(const MatrixView& b, int64_t k, int64_t depth, int64_t begin, int64_t end,
                 T* packed) {
  // A few k at a time, so that what is written stays in L1 until its lines are
  // full.
  constexpr int64_t kDepth = 16;
  for (int64_t panel = begin; panel < end; ++panel) {
    const int64_t first = panel * kPanel<T>, units = smaller(kPanel<T>, b.columns - first);
    T* to = packed + panel * depth * kPanel<T>;
    if (units < kPanel<T>) std::memset(to, 0, depth * kPanel<T> * sizeof(T));
    for (int64_t j = 0; j < depth; j += kDepth)
      copy_columns(static_cast<const T*>(b.data) + (k + j) * b.row_stride + first * b.column_stride,
                   b.row_stride, b.column_stride, smaller(kDepth, depth - j), units,
                   to + j * kPanel<T>, kPanel<T>);
  }
}

template <class T>
void matmul(const MatmulArgs& args, int begin, int end, Barrier& barrier) {
  const MatrixView &a = args.a, &b = args.b;
  const DepthParts blocks(a.columns, kMostDepth<T>);
  const int64_t panels = ceil_div(b.columns, kPanel<T>), width = panels * kPanel<T>;
  const auto share = [&](int64_t total, int slot) { return total * slot / args.slots; };

  // Threads share the tiles of rows where there are more of them than panels, else the panels.
  const int64_t all_tiles = ceil_div(a.rows, kTileRows);
  const bool by_rows = all_tiles >= panels;
  const int64_t row_begin = by_rows ? smaller(a.rows, share(all_tiles, begin) * kTileRows) : 0,
                row_end = by_rows ? smaller(a.rows, share(all_tiles, end) * kTileRows) : a.rows,
                panel_begin = by_rows ? 0 : share(panels, begin),
                panel_end = by_rows ? panels : share(panels, end);
  const bool in_place = a.column_stride == 1;
  T* packed_a = static_cast<T*>(args.packed_a) + begin * kBlockRows * kMostDepth<T>;
  T* out = static_cast<T*>(args.out);

  for (int64_t i = 0; i < blocks.count; ++i) {
    const int64_t k = blocks.begin(i), depth = blocks.begin(i + 1) - k;
    T* packed_b = static_cast<T*>(args.packed_b) + (args.keep ? k * width : 0);
    if (!args.packed) {
      if (i > 0 && !args.keep) barrier.wait(end - begin);  // nobody reads the last block any more
      pack_panels(b, k, depth, share(panels, begin), share(panels, end), packed_b);
      barrier.wait(end - begin);
    }
    for (int64_t row = row_begin; row < row_end; row += kBlockRows) {
      const Tiles tiles(smaller(kBlockRows, row_end - row));
      if (!in_place) pack_rows(a, row, tiles, k, depth, packed_a);
      const T* rows = in_place ? static_cast<const T*>(a.data) + row * a.row_stride + k : packed_a;
      // What pack_rows will read next, for the first panel to fetch.
      const bool last_rows = row + kBlockRows >= row_end;
      const T* next_rows = static_cast<const T*>(a.data) +
                           (last_rows ? row_begin : row + kBlockRows) * a.row_stride +
                           (last_rows ? k + depth : k) * a.column_stride;
      const bool fetch_rows = !in_place && !(last_rows && i + 1 == blocks.count);
      for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
        const T* w = packed_b + panel * depth * kPanel<T>;
        const T* next = panel + 1 < panel_end ? w + depth * kPanel<T> : nullptr;
        Fetch<T> fetch(next, next ? depth * kPanel<T> : 0, next_rows, a.column_stride,
                       fetch_rows && panel == panel_begin ? kBlockRows : 0);
        const int columns = static_cast<int>(smaller(kPanel<T>, b.columns - panel * kPanel<T>));
        for (int64_t t = 0; t < tiles.count; ++t) {
          const int64_t first = tiles.begin(t), height = tiles.begin(t + 1) - first;
          tile<T>(height, in_place ? rows + first * a.row_stride : rows + first * depth,
                  in_place ? a.row_stride : 1, in_place ? 1 : height, depth, w,
                  fetch.during(depth, height),
                  out + (row + first) * args.out_stride + panel * kPanel<T>, args.out_stride,
                  columns, args.add || i > 0);
        }
      }
    }
  }
}

template <class T>
MatmulKernels kernels() {
  MatmulKernels k;
  k.run = matmul<T>;
  k.packed_b_bytes = [](int64_t depth, int64_t columns, bool keep) -> int64_t {
    const int64_t rows = keep ? depth : smaller(depth, kMostDepth<T>);
    return rows * round_up(columns, kPanel<T>) * int64_t(sizeof(T));
  };
  k.packed_a_bytes = kBlockRows * kDepthBytes;
  k.wide = kVectorBytes == 64;
  return k;
}

}  // namespace

// Fills the table that matmul_kernels() reads. AVX512-BF16 and AMX have nothing new here.
void fill_matmul_kernels(MatmulKernels* by_storage) {
#if SEQKERN_ISA_FROM(avx512_bf16)
  (void)by_storage;
#else
  by_storage[int(Storage::kFloat)] = kernels<float>();
  by_storage[int(Storage::kDouble)] = kernels<double>();
#endif
}

}  // namespace SEQKERN_ISA
}  // namespace seqkern
