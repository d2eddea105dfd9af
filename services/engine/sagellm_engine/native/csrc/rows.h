// What is done to single rows between the products: norm, quantization, rotary embedding.
#pragma once

#include <cmath>

#include "matmul.h"

namespace SAGE_ISA {

constexpr int kMaxInputs = 32768;

// How the rows before a product are laid out in scratch memory, by the form that the product wants.
inline int64_t row_bytes(const SageLinear& w, int compute) {
  const int64_t num_in = padded_in(w);
  if (w.kind == SAGE_INT8 || w.kind == SAGE_INT4) return num_in;
  return kHasBf16 && is_bfloat16(w) && compute == SAGE_COMPUTE_BF16 ? 2 * num_in : 4 * num_in;
}

inline bool is_quantized(const SageLinear& w) { return w.kind == SAGE_INT8 || w.kind == SAGE_INT4; }

// Root-mean-square norm (Zhang and Sennrich, 2019) of x [n] times gain [n]; n is a multiple of kLanes.
inline void rms_norm(const float* x, const float* gain, float eps, int n, float* out) {
  vf squares[4] = {zero(), zero(), zero(), zero()};
  for (int i = 0, j = 0; i < n; i += kLanes, j = (j + 1) % 4) {
    const vf v = load(x + i);
    squares[j] = fma(v, v, squares[j]);
  }
  const float sum = sum_lanes(add(add(squares[0], squares[1]), add(squares[2], squares[3])));
  const vf scale = set1(1.0f / std::sqrt(sum / static_cast<float>(n) + eps));
  for (int i = 0; i < n; i += kLanes) store(out + i, mul(mul(load(x + i), scale), load(gain + i)));
}

// Lengths of rows and of weights that bounds on their products are relied on for.
constexpr float kLeastLength = 1e-15f, kMostLength = 1e18f;

inline float largest_magnitude(const float* x, int n) {
  vf largest = zero();
  for (int i = 0; i < n; i += kLanes) largest = max(largest, abs(load(x + i)));
  return max_lanes(largest);
}

// By what numbers up to so large are multiplied to be at most 127.
inline float to_127(float most) { return most > 0 ? 127.0f / most : 0.0f; }

// Quantizes a row [n] to whole numbers in [-127, 127] by its largest magnitude; returns the scale. Bytes of INT8
// products are shifted by 128, those of INT4 products are signed and come with the sum of each group.
inline float quantize_row(const float* x, int n, bool shifted, uint8_t* out, int32_t* group_sums) {
  const float most = largest_magnitude(x, n);
  const vf inverse = set1(to_127(most));
  const vi offset = set1_i(shifted ? 128 : 0);
  for (int i = 0; i < n; i += kLanes) store_low8(out + i, add_i(to_int(mul(load(x + i), inverse)), offset));
  if (group_sums != nullptr)
    for (int g = 0; g < n / kGroup; ++g) {
      int32_t sum = 0;
      for (int i = 0; i < kGroup; ++i) sum += static_cast<int8_t>(out[g * kGroup + i]);
      group_sums[g] = sum;
    }
  return most / 127.0f;
}

// A product's rows in scratch memory, written one at a time from fp32 values. With a stage [kMaxTile] of rows, they
// wait there until `finish` puts whole tiles in place.
struct RowWriter {
  const SageLinear& w;
  int compute;
  int num_rows;
  char* data;
  float* scales;
  int32_t* sums;
  Unit* stage;  // or null

  Rows rows() const { return {data, row_bytes(w, compute), scales, sums}; }

  void put(int row, const float* x) const {
    const int n = padded_in(w);
    alignas(64) float padded[kMaxInputs];
    if (n != w.num_in) {
      std::copy(x, x + w.num_in, padded);
      std::fill(padded + w.num_in, padded + n, 0.0f);
      x = padded;
    }
    alignas(64) Unit own[kMaxInputs];
    Unit* units = stage == nullptr ? own : stage + row % kMaxTile * count();
    if (is_quantized(w)) {
      int32_t* group_sums = w.kind == SAGE_INT4 ? sums + static_cast<int64_t>(row) * (n / kGroup) : nullptr;
      scales[row] = quantize_row(x, n, w.kind == SAGE_INT8, reinterpret_cast<uint8_t*>(units), group_sums);
    } else if (row_bytes(w, compute) == 2 * n) {
      for (int i = 0; i < n; i += kLanes) store_bf16(reinterpret_cast<uint16_t*>(units) + i, load(x + i));
    } else {
      std::memcpy(units, x, n * sizeof(float));
    }
    if (stage == nullptr) place(row, units);
  }

  // Puts rows [first, end) in place; `first` begins a tile.
  void finish(int first, int end) const {
    for (int row = first, rows; row < end; row += rows) {
      rows = tile_rows(num_rows - row);
      interleave(stage + row % kMaxTile * count(), count(), rows, count(), tile(row));
    }
  }

 private:
  int count() const { return static_cast<int>(row_bytes(w, compute) / 4); }
  Unit* tile(int first) const { return reinterpret_cast<Unit*>(data + first * row_bytes(w, compute)); }

  void place(int row, const Unit* units) const {
    const TilePlace at = tile_place(row, num_rows);
    Unit* to = tile(at.first) + (row - at.first);
    for (int i = 0; i < count(); ++i) to[static_cast<int64_t>(i) * at.rows] = units[i];
  }
};

// Cosines and sines [dim / 2] of a position's angles (Su et al., 2021).
inline void rotation(int position, const float* inv_freq, int half, float* cosines, float* sines) {
  for (int i = 0; i < half; ++i) {
    const double angle = static_cast<float>(position) * inv_freq[i];
    cosines[i] = static_cast<float>(std::cos(angle));
    sines[i] = static_cast<float>(std::sin(angle));
  }
}

// Rotates the pairs (x[i], x[i + half]) and scales the result.
inline void rotate(float* x, const float* cosines, const float* sines, int half, float scale) {
  int i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    const vf a = load(x + i), b = load(x + i + half), c = load(cosines + i), s = load(sines + i);
    store(x + i, mul(sub(mul(a, c), mul(b, s)), set1(scale)));
    store(x + i + half, mul(add(mul(b, c), mul(a, s)), set1(scale)));
  }
  for (; i < half; ++i) {
    const float a = x[i], b = x[i + half];
    x[i] = (a * cosines[i] - b * sines[i]) * scale;
    x[i + half] = (b * cosines[i] + a * sines[i]) * scale;
  }
}

// One row [num_in] of a packed weight, as an embedding is looked up.
inline void gather_row(const SageLinear& w, int row, float* out) {
  const int num_in = padded_in(w), column = row % kPanel;
  const char* panel = panel_at(w, row / kPanel);
  const char* base = inputs_at(w, row / kPanel, 0);
  if (w.kind == SAGE_F32 || w.kind == SAGE_F16) {
    for (int k = 0; k < num_in; ++k) {
      const int at = k * kPanel + column;
      out[k] = w.kind == SAGE_F32 ? reinterpret_cast<const float*>(base)[at]
                                  : _cvtsh_ss(reinterpret_cast<const uint16_t*>(base)[at]);
    }
  } else if (w.kind == SAGE_BF16) {
    const uint16_t* p = reinterpret_cast<const uint16_t*>(base);
    for (int k = 0; k < num_in; ++k) out[k] = from_bf16(p[(k / 2) * 2 * kPanel + column * 2 + k % 2]);
  } else if (w.kind == SAGE_BF12) {
    gather_bf12(panel, base, num_in, column, out);
  } else if (w.kind == SAGE_INT8) {
    const int8_t* p = reinterpret_cast<const int8_t*>(base);
    for (int k = 0; k < num_in; ++k) out[k] = w.scale[row] * p[(k / 4) * 4 * kPanel + column * 4 + k % 4];
  } else {
    for (int k = 0; k < num_in; ++k) {
      const char* group = base + (k / kGroup) * kInt4Block;
      const int in_group = k % kGroup, quad = in_group % 16 / 4;
      const uint8_t both = static_cast<uint8_t>(group[kPanel * 2 + (quad * kPanel + column) * 4 + in_group % 4]);
      const int nibble = in_group < 16 ? both & 15 : both >> 4;
      out[k] = _cvtsh_ss(reinterpret_cast<const uint16_t*>(group)[column]) * static_cast<float>(nibble - 8);
    }
  }
}

}  // namespace SAGE_ISA
