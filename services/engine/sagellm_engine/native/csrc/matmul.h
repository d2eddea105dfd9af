// Products of activation rows with packed weights.
//
// A weight [out, in] is packed into panels of kPanel outputs, each holding all inputs one after the other, so that one
// layout serves every number of rows and every thread reads a stream. With L = kLanes, two vectors a panel:
//   F32, F16  [panel][in][2][L]
//   BF16      [panel][in / 2][2][L][2]          two inputs side by side, as VDPBF16PS reads them
//   INT8      [panel][in / 4][2][L][4]          four inputs side by side, as VPDPBUSD reads them
//   INT4      [panel][in / 32]{f16 scale [2][L], nibbles [4][2][L][4]}: low nibbles inputs 0..15, high ones 16..31
// Inputs are padded with zeros to a multiple of 32, outputs to whole panels.
//
// Determinism: every output is one chain of fused multiply-adds over the inputs in their order (integers: a sum, which
// has no order), whatever the number of rows, of panels at once, of parts, or of threads.
//
// Blocking (Goto and van de Geijn, 2008): a part of a panel's inputs stays in the first-level cache while all tiles of
// rows pass by; the sums of a block of rows wait in memory for the next part.
#pragma once

#include <algorithm>
#include <cstring>

#include "abi.h"
#include "vec.h"

namespace SAGE_ISA {

constexpr int kPanel = 2 * kLanes;
constexpr int kGroup = 32;  // inputs that share a scale in INT4; also what inputs are padded to
constexpr int kMaxTile = kRegisters == 32 ? 12 : 6;
constexpr int kTilesAtOnce = 16;
constexpr int kRowsAtOnce = kTilesAtOnce * kMaxTile;  // of one piece of work
constexpr int kPartBytes = 24 * 1024;                 // of a panel that stay in the first-level cache
constexpr int kShortPart = 6 * 1024;                  // where one tile passes by: asked for just before

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
inline int padded_in(const SageLinear& w) { return static_cast<int>(round_up(w.num_in, kGroup)); }
inline int num_panels(const SageLinear& w) { return static_cast<int>(round_up(w.num_out, kPanel) / kPanel); }

// Rows of the next tile when so many are left: few sizes, none much smaller than the registers allow.
inline int tile_rows(int left) {
  if (left >= kMaxTile) return kMaxTile;
  if constexpr (kMaxTile == 12) {
    constexpr int kNext[12] = {0, 1, 2, 3, 4, 5, 6, 4, 8, 5, 6, 6};
    return kNext[left];
  }
  return left;
}

// Where a row lies among so many: the first row of its tile, and how many rows the tile has.
struct TilePlace {
  int first, rows;
};
inline TilePlace tile_place(int row, int num_rows) {
  int first = row / kMaxTile * kMaxTile, rows = tile_rows(num_rows - first);
  while (row >= first + rows) {
    first += rows;
    rows = tile_rows(num_rows - first);
  }
  return {first, rows};
}

// Activation rows in the form that a product wants: tile after tile as `tile_rows` divides them, within a tile [k][rows]
// in units of four bytes (one float, two bfloat16 or four bytes of inputs), so that a kernel reads one stream.
struct Rows {
  const char* data;
  int64_t row_bytes;
  const float* scale;      // quantized: [rows]
  const int32_t* sums;     // quantized for INT4: sum of each group of inputs [rows, in / 32]
};

SAGE_INLINE void read(vf& x, const float* from) { x = load(from); }
SAGE_INLINE void read(vi& x, const float* from) { x = load_i(from); }
SAGE_INLINE void write(float* to, vf x) { store(to, x); }
SAGE_INLINE void write(float* to, vi x) { store_i(to, x); }

// A tile's sums lie [panel][kMaxTile][kPanel] in memory, floats or integers. Unrolled early, so that the compiler keeps
// them in registers.
template <class Vector, int kRows, int kPanels>
SAGE_INLINE void load_sums(const float* from, Vector (&acc)[kRows][kPanels][2]) {
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p)
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) read(acc[m][p][j], from + (p * kMaxTile + m) * kPanel + j * kLanes);
}
template <class Vector, int kRows, int kPanels>
SAGE_INLINE void store_sums(const Vector (&acc)[kRows][kPanels][2], float* to) {
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p)
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) write(to + (p * kMaxTile + m) * kPanel + j * kLanes, acc[m][p][j]);
}

// Weights that are needed next: what a tile asks memory for meanwhile.
struct Soon {
  const char* from;
  int bytes;
};

// Asks for them bit by bit, as many times as there are units of inputs; of two panels, for both.
template <int kRows, int kPanels>
class Fetch {
 public:
  Fetch(const Soon& soon, int units, int64_t panel_bytes)
      : at_(soon.from), step_((soon.bytes + units - 1) / units), panel_bytes_(panel_bytes) {}

  SAGE_INLINE void some() {
    if constexpr (kRows == 1) return;
    for (int i = 0; i < step_; i += 64)
      for (int p = 0; p < kPanels; ++p) _mm_prefetch(at_ + p * panel_bytes_ + i, _MM_HINT_T0);
    at_ += step_;
  }

 private:
  const char* at_;
  const int step_;
  const int64_t panel_bytes_;
};

// Reads the weights of one unit of inputs (four bytes a row) from each panel.
template <int kPanels>
void load_units(const char* from, int64_t panel_bytes, vi (&units)[kPanels][2]) {
  for (int p = 0; p < kPanels; ++p, from += panel_bytes)
    for (int j = 0; j < 2; ++j) units[p][j] = load_i(from + j * kLanes * 4);
}

// Inputs [from, to) of a product, whole groups. A tile adds them to the sums that it is given.
struct Part {
  int from, to;
};

struct F32Weights {
  static constexpr int kBytes = 4;
  static void pair(const char* p, vf (&w)[2][2]) {
    const float* f = reinterpret_cast<const float*>(p);
    for (int k = 0; k < 2; ++k)
      for (int j = 0; j < 2; ++j) w[k][j] = load(f + (k * 2 + j) * kLanes);
  }
};

struct F16Weights {
  static constexpr int kBytes = 2;
  static void pair(const char* p, vf (&w)[2][2]) {
    const uint16_t* h = reinterpret_cast<const uint16_t*>(p);
    for (int k = 0; k < 2; ++k)
      for (int j = 0; j < 2; ++j) w[k][j] = from_f16(h + (k * 2 + j) * kLanes);
  }
};

struct Bf16Weights {
  static constexpr int kBytes = 2;
  static void pair(const char* p, vf (&w)[2][2]) {
    for (int j = 0; j < 2; ++j) {
      const vi both = load_i(p + j * kLanes * 4);
      w[0][j] = low_half(both);
      w[1][j] = high_half(both);
    }
  }
};

// fp32 rows times weights of any floating type.
template <class Weights>
struct FloatProduct {
  template <int kRows, int kPanels>
  static void tile(const SageLinear& w, const Rows& a, int row, int panel, Part part, Soon soon, float* out) {
    const int64_t panel_bytes = static_cast<int64_t>(padded_in(w)) * kPanel * Weights::kBytes;
    const char* weights = static_cast<const char*>(w.weight) + panel * panel_bytes;
    const float* x = reinterpret_cast<const float*>(a.data + row * a.row_bytes) + part.from * kRows;
    vf acc[kRows][kPanels][2];
    load_sums(out, acc);
    Fetch<kRows, kPanels> fetch(soon, (part.to - part.from) / 2, panel_bytes);
    for (int k = part.from; k < part.to; k += 2) {
      vf weight[kPanels][2][2];
      fetch.some();
      for (int p = 0; p < kPanels; ++p)
        Weights::pair(weights + p * panel_bytes + static_cast<int64_t>(k) * kPanel * Weights::kBytes, weight[p]);
      for (int half = 0; half < 2; ++half, x += kRows)
        for (int m = 0; m < kRows; ++m) {
          const vf value = set1(x[m]);
          for (int p = 0; p < kPanels; ++p)
            for (int j = 0; j < 2; ++j) acc[m][p][j] = fma(value, weight[p][half][j], acc[m][p][j]);
        }
    }
    store_sums(acc, out);
  }
};

// bfloat16 rows times bfloat16 weights, accumulated in fp32.
struct Bf16Product {
  template <int kRows, int kPanels>
  static void tile(const SageLinear& w, const Rows& a, int row, int panel, Part part, Soon soon, float* out) {
    const int64_t panel_bytes = static_cast<int64_t>(padded_in(w)) * kPanel * 2;
    const char* weights = static_cast<const char*>(w.weight) + panel * panel_bytes;
    const int32_t* x = reinterpret_cast<const int32_t*>(a.data + row * a.row_bytes) + part.from / 2 * kRows;
    vf acc[kRows][kPanels][2];
    load_sums(out, acc);
    Fetch<kRows, kPanels> fetch(soon, (part.to - part.from) / 2, panel_bytes);
    for (int k = part.from / 2; k < part.to / 2; ++k, x += kRows) {
      vi weight[kPanels][2];
      fetch.some();
      load_units(weights + static_cast<int64_t>(k) * kPanel * 4, panel_bytes, weight);
      for (int m = 0; m < kRows; ++m) {
        const vi value = set1_i(x[m]);
        for (int p = 0; p < kPanels; ++p)
          for (int j = 0; j < 2; ++j) acc[m][p][j] = dot2(acc[m][p][j], value, weight[p][j]);
      }
    }
    store_sums(acc, out);
  }
};

// Rows quantized to [-127, 127] and shifted by 128 into unsigned bytes, times INT8 weights.
struct Int8Product {
  template <int kRows, int kPanels>
  static void tile(const SageLinear& w, const Rows& a, int row, int panel, Part part, Soon soon, float* out) {
    const int64_t panel_bytes = static_cast<int64_t>(padded_in(w)) * kPanel;
    const char* weights = static_cast<const char*>(w.weight) + panel * panel_bytes;
    const int32_t* x = reinterpret_cast<const int32_t*>(a.data + row * a.row_bytes) + part.from / 4 * kRows;
    vi acc[kRows][kPanels][2];
    load_sums(out, acc);
    Fetch<kRows, kPanels> fetch(soon, (part.to - part.from) / 4, panel_bytes);
    for (int k = part.from / 4; k < part.to / 4; ++k, x += kRows) {
      vi weight[kPanels][2];
      fetch.some();
      load_units(weights + static_cast<int64_t>(k) * kPanel * 4, panel_bytes, weight);
      for (int m = 0; m < kRows; ++m) {
        const vi value = set1_i(x[m]);
        for (int p = 0; p < kPanels; ++p)
          for (int j = 0; j < 2; ++j) acc[m][p][j] = dot4(acc[m][p][j], value, weight[p][j]);
      }
    }
    store_sums(acc, out);  // as they are: the compiler keeps sums in registers only if this is all it sees
    if (part.to == padded_in(w))
      for (int p = 0; p < kPanels; ++p)
        for (int j = 0; j < kPanel; j += kLanes)
          finish(w, a, row, kRows, (panel + p) * kPanel + j, out + p * kMaxTile * kPanel + j);
  }

  // Turns the sums of one vector of outputs into numbers, row by row, in place.
  static void finish(const SageLinear& w, const Rows& a, int row, int rows, int column, float* sums) {
    const vi shift = mul_i(load_i(w.sums + column), set1_i(128));
    const vf scale = load(w.scale + column);
    for (int m = 0; m < rows; ++m, sums += kPanel) {
      const vf exact = to_float(sub_i(load_i(sums), shift));
      store(sums, mul(mul(exact, scale), set1(a.scale[row + m])));
    }
  }
};

// Rows quantized to signed bytes times INT4 weights, whose nibbles are unsigned with an offset of 8.
struct Int4Product {
  static constexpr int kBlock = kPanel * (2 + kGroup / 2);  // bytes of one group of a panel

  template <int kRows, int kPanels>
  static void tile(const SageLinear& w, const Rows& a, int row, int panel, Part part, Soon soon, float* out) {
    const int num_groups = padded_in(w) / kGroup;
    for (int p = 0; p < kPanels; ++p, out += kMaxTile * kPanel) {
      const char* blocks = static_cast<const char*>(w.weight) + static_cast<int64_t>(panel + p) * num_groups * kBlock;
      vf total[kRows][1][2];
      load_sums(out, total);
      Fetch<kRows, 1> fetch(soon, (part.to - part.from) / kGroup, 0);
      soon.from += static_cast<int64_t>(num_groups) * kBlock;
      for (int g = part.from / kGroup; g < part.to / kGroup; ++g) {
        fetch.some();
        add_group<kRows>(a, row, g, num_groups, blocks + g * kBlock, total);
      }
      if (part.to == padded_in(w))
        for (int m = 0; m < kRows; ++m)
          for (int j = 0; j < 2; ++j) total[m][0][j] = mul(total[m][0][j], set1(a.scale[row + m]));
      store_sums(total, out);
    }
  }

  template <int kRows>
  static void add_group(const Rows& a, int row, int g, int num_groups, const char* block, vf (&total)[kRows][1][2]) {
    const vi low = set1_i(0x0f0f0f0f);
    const char* nibbles = block + kPanel * 2;
    const int32_t* x = reinterpret_cast<const int32_t*>(a.data + row * a.row_bytes) + g * (kGroup / 4) * kRows;
    vi acc[kRows][2];
    for (int m = 0; m < kRows; ++m) {
      const int32_t sum = a.sums[static_cast<int64_t>(row + m) * num_groups + g];
      acc[m][0] = acc[m][1] = set1_i(-8 * sum);
    }
    for (int q = 0; q < 4; ++q) {
      vi weight[2][2];
      for (int j = 0; j < 2; ++j) {
        const vi both = load_i(nibbles + (q * 2 + j) * kLanes * 4);
        weight[0][j] = and_i(both, low);
        weight[1][j] = and_i(shift_right<4>(both), low);
      }
      for (int m = 0; m < kRows; ++m) {
        for (int half = 0; half < 2; ++half) {
          const vi value = set1_i(x[(half * 4 + q) * kRows + m]);
          for (int j = 0; j < 2; ++j) acc[m][j] = dot4(acc[m][j], weight[half][j], value);
        }
      }
    }
    for (int j = 0; j < 2; ++j) {
      const vf scale = from_f16(reinterpret_cast<const uint16_t*>(block) + j * kLanes);
      for (int m = 0; m < kRows; ++m) total[m][0][j] = fma(to_float(acc[m][j]), scale, total[m][0][j]);
    }
  }
};

using TileFunction = void (*)(const SageLinear&, const Rows&, int row, int panel, Part, Soon, float*);

template <class Product, int kRows>
TileFunction tile_of(int panels) {
  if constexpr (kRows * 2 <= kMaxTile) {
    if (panels == 2) return &Product::template tile<kRows, 2>;
  }
  return &Product::template tile<kRows, 1>;
}

template <class Product>
TileFunction find_tile(int rows, int panels) {
  switch (rows) {
    case 1: return tile_of<Product, 1>(panels);
    case 2: return tile_of<Product, 2>(panels);
    case 3: return tile_of<Product, 3>(panels);
    case 4: return tile_of<Product, 4>(panels);
    case 5: return tile_of<Product, 5>(panels);
    case 6: return tile_of<Product, 6>(panels);
    case 8: return tile_of<Product, kMaxTile == 12 ? 8 : 6>(panels);
    default: return tile_of<Product, kMaxTile>(panels);
  }
}

// Rows [first, end) and panels [begin, end) of a product that one piece of work computes.
struct Block {
  int first_row, end_row, first_panel, end_panel;
};

// Rows [first, end) of a step, whole tiles, that one thread takes before it helps others.
struct Share {
  int first, end;
  int rows() const { return end - first; }
};

// How a share of a product is divided: two panels a piece for few rows, else one panel for a block of rows. Of the
// pieces a part are one thread's own, so that it reads on where it was: two threads that take turns are a sixth slower.
struct Division {
  Division(const SageLinear& w, const Share& share, int part = 0, int parts = 1)
      : share(share), panels(num_panels(w)), panels_at_once(share.rows() > 1 && share.rows() * 2 <= kMaxTile ? 2 : 1),
        columns((panels + panels_at_once - 1) / panels_at_once) {
    const int blocks = (share.rows() + kRowsAtOnce - 1) / kRowsAtOnce, pieces = blocks * columns;
    rows_at_once = static_cast<int>(round_up((share.rows() + blocks - 1) / blocks, kMaxTile));
    begin = static_cast<int>(int64_t{pieces} * part / parts);
    count = static_cast<int>(int64_t{pieces} * (part + 1) / parts) - begin;
  }

  Block block(int i) const {
    const int piece = begin + i, row = share.first + piece / columns * rows_at_once;
    const int panel = piece % columns * panels_at_once;
    return {row, std::min(share.end, row + rows_at_once), panel, std::min(panels, panel + panels_at_once)};
  }

  Share share;
  int panels, panels_at_once, columns, rows_at_once, begin, count;
};

inline TileFunction find_tile(int kind, int compute, int rows, int panels) {
  switch (kind) {
    case SAGE_F32: return find_tile<FloatProduct<F32Weights>>(rows, panels);
    case SAGE_F16: return find_tile<FloatProduct<F16Weights>>(rows, panels);
    case SAGE_INT8: return find_tile<Int8Product>(rows, panels);
    case SAGE_INT4: return find_tile<Int4Product>(rows, panels);
    default:
      if constexpr (kHasBf16) {
        if (compute == SAGE_COMPUTE_BF16) return find_tile<Bf16Product>(rows, panels);
      }
      return find_tile<FloatProduct<Bf16Weights>>(rows, panels);
  }
}

// Bytes of a panel's first inputs, whole groups.
inline int64_t panel_bytes(const SageLinear& w, int inputs) {
  switch (w.kind) {
    case SAGE_F32: return static_cast<int64_t>(inputs) * kPanel * 4;
    case SAGE_INT8: return static_cast<int64_t>(inputs) * kPanel;
    case SAGE_INT4: return static_cast<int64_t>(inputs) / kGroup * Int4Product::kBlock;
    default: return static_cast<int64_t>(inputs) * kPanel * 2;
  }
}

// Computes blocks of a product; each asks for the first weights of the one that follows.
class Multiplication {
 public:
  Multiplication(const SageLinear& w, const Rows& a, int compute, int num_rows)
      : w_(w), a_(a), compute_(compute), num_rows_(num_rows), num_in_(padded_in(w)) {}

  // `then` is the block that the same thread computes next; `finish(row, panel, values)` gets kPanel sums of one row.
  template <class Finish>
  void run(const Block& block, const Block& then, Finish finish) const {
    alignas(64) float sums[kRowsAtOnce * kPanel];
    const int panels = block.end_panel - block.first_panel, tiles = count_tiles(block);
    const int at_once = part_inputs(tiles);
    std::memset(sums, 0, ((panels - 1) * kMaxTile + block.end_row - block.first_row) * kPanel * sizeof(float));
    for (int from = 0; from < num_in_; from += at_once) {
      const Part part{from, std::min(num_in_, from + at_once)};
      const bool is_last = part.to == num_in_;
      const int next = is_last ? 0 : part.to, next_to = std::min(num_in_, next + at_once);
      Soon soon{weights(is_last ? then.first_panel : block.first_panel, next),
                static_cast<int>(panel_bytes(w_, next_to - next)) / tiles};
      float* out = sums;
      for (int row = block.first_row, rows; row < block.end_row; row += rows, out += rows * kPanel) {
        rows = tile_rows(num_rows_ - row);
        find_tile(w_.kind, compute_, rows, panels)(w_, a_, row, block.first_panel, part, soon, out);
        soon.from += soon.bytes;
        if (is_last)
          for (int p = 0; p < panels; ++p)
            for (int m = 0; m < rows; ++m) finish(row + m, block.first_panel + p, out + (p * kMaxTile + m) * kPanel);
      }
    }
  }

 private:
  int count_tiles(const Block& block) const {
    int tiles = 0;
    for (int row = block.first_row; row < block.end_row; row += tile_rows(num_rows_ - row)) ++tiles;
    return tiles;
  }

  // Inputs of a part: parts are of one size, and no larger than what stays in the first-level cache while all tiles
  // pass by; where there is one tile, no larger than what memory should be asked for beforehand.
  int part_inputs(int tiles) const {
    if (num_rows_ == 1) return num_in_;  // nothing is asked for: the hardware sees what comes
    const int64_t bytes = panel_bytes(w_, num_in_), most = tiles > 1 ? kPartBytes : kShortPart;
    const int parts = static_cast<int>((bytes + most - 1) / most);
    return static_cast<int>(round_up((num_in_ + parts - 1) / parts, kGroup));
  }

  const char* weights(int panel, int from) const {
    return static_cast<const char*>(w_.weight) + panel * panel_bytes(w_, num_in_) + panel_bytes(w_, from);
  }

  const SageLinear& w_;
  const Rows& a_;
  const int compute_, num_rows_, num_in_;
};

}  // namespace SAGE_ISA
