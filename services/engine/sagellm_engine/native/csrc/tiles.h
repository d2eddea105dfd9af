// Tiles of products: a few activation rows times one or two panels of packed weights, and a part of their inputs.
//
// Determinism: every output is one chain of fused multiply-adds over the inputs in their order (integers: a sum, which
// has no order), whatever the number of rows, of panels at once, of parts, or of threads.
#pragma once

#include <cstring>

#include "bf12.h"
#include "panels.h"

namespace SAGE_ISA {

constexpr int kMaxTile = kRegisters == 32 ? 12 : 6;

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

// Activation rows in the form that a product wants: tile after tile as `tile_rows` divides them, within a tile
// [k][rows] in units of four bytes (one float, two bfloat16 or four bytes of inputs), so that a kernel reads one stream.
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

// Asks for them bit by bit, so many times; of two panels, for both.
template <int kRows, int kPanels>
class Fetch {
 public:
  Fetch(const Soon& soon, int times, int64_t stride)
      : at_(soon.from), step_((soon.bytes + times - 1) / times), stride_(stride) {}

  SAGE_INLINE void some() {
    if constexpr (kRows == 1) return;
    for (int i = 0; i < step_; i += 64)
      for (int p = 0; p < kPanels; ++p) _mm_prefetch(at_ + p * stride_ + i, _MM_HINT_T0);
    at_ += step_;
  }

 private:
  const char* at_;
  const int step_;
  const int64_t stride_;
};

// Inputs [from, to) of a product, whole groups. A tile adds them to the sums that it is given.
struct Part {
  int from, to;
};

// Weights of one panel, read as floats [inputs][2][L], a few inputs at once.
SAGE_INLINE vf floats_at(const float* p) { return load(p); }
SAGE_INLINE vf floats_at(const uint16_t* p) { return from_f16(p); }
template <class Stored>
struct FloatWeights {
  static constexpr int kInputs = 2, kAhead = 0;
  FloatWeights(const char*, char*) {}
  SAGE_INLINE void read(const char* p, vf (&w)[2][2]) const {
    const Stored* stored = reinterpret_cast<const Stored*>(p);
    for (int k = 0; k < 2; ++k)
      for (int j = 0; j < 2; ++j) w[k][j] = floats_at(stored + (k * 2 + j) * kLanes);
  }
};

// The same as pairs of bfloat16 numbers [pairs][2][L].
struct Bf16Pairs {
  static constexpr int kPairs = 1, kAhead = 0;
  Bf16Pairs(const char*, char*) {}
  SAGE_INLINE void read(const char* p, vi (&w)[1][2]) const {
    for (int j = 0; j < 2; ++j) w[0][j] = load_i(p + j * kLanes * 4);
  }
};

// What unpacks them sees less far ahead than what only reads them.
struct Bf12Pairs : Bf12Reader {
  static constexpr int kPairs = 2, kAhead = 8 * 1024;
  Bf12Pairs(const char* panel, char*) : Bf12Reader(panel) {}
};

// What is read is left as BF16 for the tiles that follow.
struct Bf12Unpacking : Bf12Reader {
  static constexpr int kPairs = 2, kAhead = 0;
  Bf12Unpacking(const char* panel, char* unpacked) : Bf12Reader(panel), to_(unpacked) {}
  SAGE_INLINE void read(const char* p, vi (&w)[2][2]) {
    Bf12Reader::read(p, w);
    store_unpacked(w, to_);
    to_ += kBf12Inputs * 2 * kPanel;
  }

 private:
  char* to_;
};

// And those as floats.
template <class Pairs>
struct FloatsOf : Pairs {
  static constexpr int kInputs = 2 * Pairs::kPairs;
  using Pairs::Pairs;
  SAGE_INLINE void read(const char* p, vf (&w)[kInputs][2]) {
    vi pairs[Pairs::kPairs][2];
    Pairs::read(p, pairs);
    for (int pair = 0; pair < Pairs::kPairs; ++pair)
      for (int j = 0; j < 2; ++j) {
        w[2 * pair][j] = low_half(pairs[pair][j]);
        w[2 * pair + 1][j] = high_half(pairs[pair][j]);
      }
  }
};

// A part's weights in the first panel; room for them as BF16 if they are to be left so, or null; and the panel's head
// if strays are to be added, or null.
struct PackedPart {
  const char* packed;
  char* unpacked;
  const char* head;
};

// Calls `add(panel, vector, stray)` for the strays of panels, in their order.
template <int kPanels, class Add>
SAGE_INLINE void for_strays(const char* head, int64_t stride, Add add) {
#pragma GCC unroll 2
  for (int p = 0; p < kPanels; ++p) {
    const Stray* stray = strays_of(head + p * stride);
    for (int left = num_strays(head + p * stride); left > 0; --left, ++stray)
      if (stray->column < kLanes)
        add(p, 0, *stray);
      else
        add(p, 1, *stray);
  }
}

// Of one row, asks for the weights that its reader wants to be asked for, far enough ahead.
template <class Reader, int kRows>
SAGE_INLINE void ask_ahead(const char* from, int64_t bytes) {
  if constexpr (kRows == 1 && Reader::kAhead > 0)
    for (int64_t i = 0; i < bytes; i += kCacheLine) _mm_prefetch(from + Reader::kAhead + i, _MM_HINT_T0);
}

// fp32 rows times weights of any floating type.
template <class Weights>
struct FloatProduct {
  template <int kRows, int kPanels>
  static void tile(const SageLinear& w, PackedPart source, const Rows& a, int row, int panel, Part part, Soon soon,
                   float* out) {
    constexpr int kInputs = Weights::kInputs;
    const int64_t stride = panel_bytes(w), bytes = input_bytes(w, kGroup) / kGroup * kInputs;
    Weights readers[2] = {{panel_at(w, panel), source.unpacked}, {panel_at(w, panel + kPanels - 1), source.unpacked}};
    const char* weights = source.packed;
    const float* x = reinterpret_cast<const float*>(a.data + row * a.row_bytes) + part.from * kRows;
    vf acc[kRows][kPanels][2];
    load_sums(out, acc);
    Fetch<kRows, kPanels> fetch(soon, (part.to - part.from) / kInputs, stride);
    for (int k = part.from; k < part.to; k += kInputs, weights += bytes) {
      vf weight[kPanels][kInputs][2];
      fetch.some();
      ask_ahead<Weights, kRows>(weights, bytes);
      for (int p = 0; p < kPanels; ++p) readers[p].read(weights + p * stride, weight[p]);
#pragma GCC unroll 4
      for (int i = 0; i < kInputs; ++i, x += kRows)
#pragma GCC unroll 16
        for (int m = 0; m < kRows; ++m) {
          const vf value = set1(x[m]);
#pragma GCC unroll 2
          for (int p = 0; p < kPanels; ++p)
#pragma GCC unroll 2
            for (int j = 0; j < 2; ++j) acc[m][p][j] = fma(value, weight[p][i][j], acc[m][p][j]);
        }
    }
    if (source.head != nullptr)
      for_strays<kPanels>(source.head, stride, [&](int p, int j, const Stray& stray) {
        const float* input = reinterpret_cast<const float*>(a.data + row * a.row_bytes) + stray.input * kRows;
        const vf only = as_float(one_lane(stray.column % kLanes, stray.value << 16));
#pragma GCC unroll 16
        for (int m = 0; m < kRows; ++m) acc[m][p][j] = fma(set1(input[m]), only, acc[m][p][j]);
      });
    store_sums(acc, out);
  }
};

// bfloat16 rows times bfloat16 weights, accumulated in fp32.
template <class Pairs>
struct Bf16Product {
  template <int kRows, int kPanels>
  static void tile(const SageLinear& w, PackedPart source, const Rows& a, int row, int panel, Part part, Soon soon,
                   float* out) {
    constexpr int kPairs = Pairs::kPairs;
    const int64_t stride = panel_bytes(w), bytes = input_bytes(w, kGroup) / kGroup * 2 * kPairs;
    Pairs readers[2] = {{panel_at(w, panel), source.unpacked}, {panel_at(w, panel + kPanels - 1), source.unpacked}};
    const char* weights = source.packed;
    const int32_t* x = reinterpret_cast<const int32_t*>(a.data + row * a.row_bytes) + part.from / 2 * kRows;
    vf acc[kRows][kPanels][2];
    load_sums(out, acc);
    Fetch<kRows, kPanels> fetch(soon, (part.to - part.from) / 2 / kPairs, stride);
    for (int k = part.from; k < part.to; k += 2 * kPairs, weights += bytes) {
      vi weight[kPanels][kPairs][2];
      fetch.some();
      ask_ahead<Pairs, kRows>(weights, bytes);
      for (int p = 0; p < kPanels; ++p) readers[p].read(weights + p * stride, weight[p]);
#pragma GCC unroll 2
      for (int i = 0; i < kPairs; ++i, x += kRows)
#pragma GCC unroll 16
        for (int m = 0; m < kRows; ++m) {
          const vi value = set1_i(x[m]);
#pragma GCC unroll 2
          for (int p = 0; p < kPanels; ++p)
#pragma GCC unroll 2
            for (int j = 0; j < 2; ++j) acc[m][p][j] = dot2(acc[m][p][j], value, weight[p][i][j]);
        }
    }
    if (source.head != nullptr)
      for_strays<kPanels>(source.head, stride, [&](int p, int j, const Stray& stray) {
        const int32_t* input = reinterpret_cast<const int32_t*>(a.data + row * a.row_bytes) + stray.input / 2 * kRows;
        const vi only = one_lane(stray.column % kLanes, stray.value << 16 * (stray.input % 2));
#pragma GCC unroll 16
        for (int m = 0; m < kRows; ++m) acc[m][p][j] = dot2(acc[m][p][j], set1_i(input[m]), only);
      });
    store_sums(acc, out);
  }
};

// Rows quantized to [-127, 127] and shifted by 128 into unsigned bytes, times INT8 weights.
struct Int8Product {
  template <int kRows, int kPanels>
  static void tile(const SageLinear& w, PackedPart source, const Rows& a, int row, int panel, Part part, Soon soon,
                   float* out) {
    const int64_t stride = panel_bytes(w);
    const char* weights = source.packed;
    const int32_t* x = reinterpret_cast<const int32_t*>(a.data + row * a.row_bytes) + part.from / 4 * kRows;
    vi acc[kRows][kPanels][2];
    load_sums(out, acc);
    Fetch<kRows, kPanels> fetch(soon, (part.to - part.from) / 4, stride);
    for (int k = part.from; k < part.to; k += 4, x += kRows, weights += 4 * kPanel) {
      vi weight[kPanels][2];
      fetch.some();
      for (int p = 0; p < kPanels; ++p)
        for (int j = 0; j < 2; ++j) weight[p][j] = load_i(weights + p * stride + j * kLanes * 4);
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
  template <int kRows, int kPanels>
  static void tile(const SageLinear& w, PackedPart source, const Rows& a, int row, int, Part part, Soon soon,
                   float* out) {
    const int num_groups = padded_in(w) / kGroup;
    for (int p = 0; p < kPanels; ++p, out += kMaxTile * kPanel) {
      const char* block = source.packed + p * panel_bytes(w);
      vf total[kRows][1][2];
      load_sums(out, total);
      Fetch<kRows, 1> fetch(soon, (part.to - part.from) / kGroup, 0);
      soon.from += panel_bytes(w);
      for (int g = part.from / kGroup; g < part.to / kGroup; ++g, block += kInt4Block) {
        fetch.some();
        add_group<kRows>(a, row, g, num_groups, block, total);
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

// Adds a part of a product to the sums of a tile: of rows from `row` on and of panels from `panel` on.
using TileFunction = void (*)(const SageLinear&, PackedPart, const Rows&, int row, int panel, Part, Soon, float*);

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
  const bool in_bf16 = kHasBf16 && compute == SAGE_COMPUTE_BF16;
  switch (kind) {
    case SAGE_F32: return find_tile<FloatProduct<FloatWeights<float>>>(rows, panels);
    case SAGE_F16: return find_tile<FloatProduct<FloatWeights<uint16_t>>>(rows, panels);
    case SAGE_INT8: return find_tile<Int8Product>(rows, panels);
    case SAGE_INT4: return find_tile<Int4Product>(rows, panels);
    case SAGE_BF12:
      if constexpr (kHasBf12)
        return in_bf16 ? find_tile<Bf16Product<Bf12Pairs>>(rows, panels)
                       : find_tile<FloatProduct<FloatsOf<Bf12Pairs>>>(rows, panels);
      [[fallthrough]];
    default:
      return in_bf16 ? find_tile<Bf16Product<Bf16Pairs>>(rows, panels)
                     : find_tile<FloatProduct<FloatsOf<Bf16Pairs>>>(rows, panels);
  }
}

// The tile that leaves BF12 weights unpacked for those that follow: of kMaxTile rows.
inline TileFunction find_unpacking_tile(int compute) {
  if (kHasBf16 && compute == SAGE_COMPUTE_BF16) return &Bf16Product<Bf12Unpacking>::tile<kMaxTile, 1>;
  return &FloatProduct<FloatsOf<Bf12Unpacking>>::tile<kMaxTile, 1>;
}

}  // namespace SAGE_ISA
