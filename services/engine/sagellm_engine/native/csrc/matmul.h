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
// has no order), whatever the number of rows, of panels at once, or of threads.
#pragma once

#include "abi.h"
#include "vec.h"

namespace SAGE_ISA {

constexpr int kPanel = 2 * kLanes;
constexpr int kGroup = 32;  // inputs that share a scale in INT4; also what inputs are padded to
constexpr int kMaxTile = kRegisters == 32 ? 12 : 6;

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
  int first = 0, rows = tile_rows(num_rows);
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
    const vi high = set1_i(static_cast<int32_t>(0xffff0000u));
    for (int j = 0; j < 2; ++j) {
      const vi both = load_i(p + j * kLanes * 4);
      w[0][j] = as_float(shift_left<16>(both));
      w[1][j] = as_float(and_i(both, high));
    }
  }
};

// fp32 rows times weights of any floating type.
template <class Weights>
struct FloatProduct {
  static constexpr int kBytesIn = Weights::kBytes;

  template <int kRows, int kPanels>
  static void tile(const SageLinear& w, const Rows& a, int row, int panel, float* out) {
    const int num_in = padded_in(w);
    const int64_t panel_bytes = static_cast<int64_t>(num_in) * kPanel * Weights::kBytes;
    const char* weights = static_cast<const char*>(w.weight) + panel * panel_bytes;
    const float* x = reinterpret_cast<const float*>(a.data + row * a.row_bytes);
    vf acc[kRows][kPanels][2];
    for (auto& of_row : acc)
      for (auto& of_panel : of_row) of_panel[0] = of_panel[1] = zero();
    for (int k = 0; k < num_in; k += 2) {
      vf weight[kPanels][2][2];
      for (int p = 0; p < kPanels; ++p)
        Weights::pair(weights + p * panel_bytes + static_cast<int64_t>(k) * kPanel * Weights::kBytes, weight[p]);
      for (int half = 0; half < 2; ++half, x += kRows)
        for (int m = 0; m < kRows; ++m) {
          const vf value = set1(x[m]);
          for (int p = 0; p < kPanels; ++p)
            for (int j = 0; j < 2; ++j) acc[m][p][j] = fma(value, weight[p][half][j], acc[m][p][j]);
        }
    }
    for (int m = 0; m < kRows; ++m)
      for (int p = 0; p < kPanels; ++p)
        for (int j = 0; j < 2; ++j) store(out + (p * kMaxTile + m) * kPanel + j * kLanes, acc[m][p][j]);
  }
};

// bfloat16 rows times bfloat16 weights, accumulated in fp32.
struct Bf16Product {
  template <int kRows, int kPanels>
  static void tile(const SageLinear& w, const Rows& a, int row, int panel, float* out) {
    const int num_in = padded_in(w);
    const int64_t panel_bytes = static_cast<int64_t>(num_in) * kPanel * 2;
    const char* weights = static_cast<const char*>(w.weight) + panel * panel_bytes;
    const int32_t* x = reinterpret_cast<const int32_t*>(a.data + row * a.row_bytes);
    vf acc[kRows][kPanels][2];
    for (auto& of_row : acc)
      for (auto& of_panel : of_row) of_panel[0] = of_panel[1] = zero();
    for (int k = 0; k < num_in / 2; ++k, x += kRows) {
      vi weight[kPanels][2];
      for (int p = 0; p < kPanels; ++p)
        for (int j = 0; j < 2; ++j)
          weight[p][j] = load_i(weights + p * panel_bytes + (static_cast<int64_t>(k) * 2 + j) * kLanes * 4);
      for (int m = 0; m < kRows; ++m) {
        const vi value = set1_i(x[m]);
        for (int p = 0; p < kPanels; ++p)
          for (int j = 0; j < 2; ++j) acc[m][p][j] = dot2(acc[m][p][j], value, weight[p][j]);
      }
    }
    for (int m = 0; m < kRows; ++m)
      for (int p = 0; p < kPanels; ++p)
        for (int j = 0; j < 2; ++j) store(out + (p * kMaxTile + m) * kPanel + j * kLanes, acc[m][p][j]);
  }
};

// Rows quantized to [-127, 127] and shifted by 128 into unsigned bytes, times INT8 weights.
struct Int8Product {
  template <int kRows, int kPanels>
  static void tile(const SageLinear& w, const Rows& a, int row, int panel, float* out) {
    const int num_quads = padded_in(w) / 4;
    const int64_t panel_bytes = static_cast<int64_t>(num_quads) * kPanel * 4;
    const char* weights = static_cast<const char*>(w.weight) + panel * panel_bytes;
    const int32_t* x = reinterpret_cast<const int32_t*>(a.data + row * a.row_bytes);
    vi acc[kRows][kPanels][2];
    for (auto& of_row : acc)
      for (auto& of_panel : of_row) of_panel[0] = of_panel[1] = zero_i();
    for (int k = 0; k < num_quads; ++k, x += kRows) {
      vi weight[kPanels][2];
      for (int p = 0; p < kPanels; ++p)
        for (int j = 0; j < 2; ++j)
          weight[p][j] = load_i(weights + p * panel_bytes + (static_cast<int64_t>(k) * 2 + j) * kLanes * 4);
      for (int m = 0; m < kRows; ++m) {
        const vi value = set1_i(x[m]);
        for (int p = 0; p < kPanels; ++p)
          for (int j = 0; j < 2; ++j) acc[m][p][j] = dot4(acc[m][p][j], value, weight[p][j]);
      }
    }
    for (int m = 0; m < kRows; ++m)  // as they are: the compiler keeps sums in registers only if this is all it sees
      for (int p = 0; p < kPanels; ++p)
        for (int j = 0; j < 2; ++j) store_i(out + (p * kMaxTile + m) * kPanel + j * kLanes, acc[m][p][j]);
    for (int p = 0; p < kPanels; ++p)
      for (int j = 0; j < kPanel; j += kLanes) finish(w, a, row, kRows, (panel + p) * kPanel + j, out + p * kMaxTile * kPanel + j);
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
  static void tile(const SageLinear& w, const Rows& a, int row, int panel, float* out) {
    const int num_groups = padded_in(w) / kGroup;
    for (int p = 0; p < kPanels; ++p) {
      const char* block = static_cast<const char*>(w.weight) + static_cast<int64_t>(panel + p) * num_groups * kBlock;
      vf total[kRows][2];
      for (auto& of_row : total) of_row[0] = of_row[1] = zero();
      for (int g = 0; g < num_groups; ++g, block += kBlock) add_group<kRows>(a, row, g, num_groups, block, total);
      for (int m = 0; m < kRows; ++m)
        for (int j = 0; j < 2; ++j)
          store(out + (p * kMaxTile + m) * kPanel + j * kLanes, mul(total[m][j], set1(a.scale[row + m])));
    }
  }

  template <int kRows>
  static void add_group(const Rows& a, int row, int g, int num_groups, const char* block, vf (&total)[kRows][2]) {
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
      for (int m = 0; m < kRows; ++m) total[m][j] = fma(to_float(acc[m][j]), scale, total[m][j]);
    }
  }
};

using TileFunction = void (*)(const SageLinear&, const Rows&, int, int, float*);

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

// Panels that one piece of work has: few, so that threads stay even; more for many rows, which then are read less often.
inline int panels_at_once(int rows) { return rows * 2 <= kMaxTile ? 2 : rows <= kMaxTile ? 1 : 4; }

// Computes panels [begin, end) for all rows; `finish(row, panel, values)` gets kPanel sums of one row.
template <class Finish>
void multiply(const SageLinear& w, const Rows& a, int compute, int num_rows, int begin, int end, Finish finish) {
  alignas(64) float out[2 * kMaxTile * kPanel];
  for (int row = 0; row < num_rows;) {
    const int rows = tile_rows(num_rows - row);
    for (int panel = begin; panel < end;) {
      const int panels = rows * 2 <= kMaxTile && end - panel >= 2 ? 2 : 1;
      find_tile(w.kind, compute, rows, panels)(w, a, row, panel, out);
      for (int p = 0; p < panels; ++p)
        for (int m = 0; m < rows; ++m) finish(row + m, panel + p, out + (p * kMaxTile + m) * kPanel);
      panel += panels;
    }
    row += rows;
  }
}

}  // namespace SAGE_ISA
