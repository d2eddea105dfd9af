// Puts a weight [out, in] into the panels that matmul.h describes.
#pragma once

#include <atomic>
#include <cmath>
#include <cstring>

#include "matmul.h"
#include "pool.h"

namespace SAGE_ISA {

inline uint16_t to_f16(float x) { return _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT); }

inline int64_t packed_bytes(const SageLinear& w) {
  const int64_t elements = static_cast<int64_t>(num_panels(w)) * kPanel * padded_in(w);
  switch (w.kind) {
    case SAGE_F32: return elements * 4;
    case SAGE_INT8: return elements;
    case SAGE_INT4: return elements / kGroup / kPanel * Int4Product::kBlock;
    default: return elements * 2;
  }
}

// A checkpoint's weight: rows of outputs, read in any floating type. With `interleaved`, the first half of the outputs
// are gates and the second half ups, and every panel gets a vector of each.
struct Source {
  const void* data;
  int32_t kind;
  int32_t interleaved;

  // Row of the checkpoint that a packed column holds, or -1 for padding.
  int row(const SageLinear& w, int column) const {
    if (!interleaved) return column < w.num_out ? column : -1;
    const int half = w.num_out / 2, panel = column / kPanel, lane = column % kLanes;
    const int in_half = panel * kLanes + lane;
    return in_half < half ? column % kPanel / kLanes * half + in_half : -1;
  }

  uint16_t raw16(int64_t at) const { return static_cast<const uint16_t*>(data)[at]; }

  float value(int64_t at) const {
    if (kind == SAGE_F32) return static_cast<const float*>(data)[at];
    if (kind == SAGE_F16) return _cvtsh_ss(raw16(at));
    const uint32_t bits = static_cast<uint32_t>(raw16(at)) << 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
  }
};

class Packer {
 public:
  Packer(const SageLinear& w, const Source& source) : w_(w), source_(source), num_in_(padded_in(w)) {}

  void run() {
    sage::Pool::instance().run([](void* self, int) { static_cast<Packer*>(self)->work(); }, this);
  }

 private:
  void work() {
    for (int panel; (panel = next_.fetch_add(1)) < num_panels(w_);)
      for (int column = 0; column < kPanel; ++column) pack_column(panel, column);
  }

  void pack_column(int panel, int column) {
    const int row = source_.row(w_, panel * kPanel + column);
    const int64_t first = static_cast<int64_t>(row) * w_.num_in;
    const auto value = [&](int k) { return row < 0 || k >= w_.num_in ? 0.0f : source_.value(first + k); };
    char* base = const_cast<char*>(static_cast<const char*>(w_.weight));
    const int64_t start = static_cast<int64_t>(panel) * num_in_ * kPanel;
    switch (w_.kind) {
      case SAGE_F32:
        for (int k = 0; k < num_in_; ++k) reinterpret_cast<float*>(base)[start + k * kPanel + column] = value(k);
        break;
      case SAGE_F16:
        for (int k = 0; k < num_in_; ++k)
          reinterpret_cast<uint16_t*>(base)[start + k * kPanel + column] =
              row < 0 || k >= w_.num_in ? 0 : source_.raw16(first + k);
        break;
      case SAGE_BF16:
        for (int k = 0; k < num_in_; ++k)
          reinterpret_cast<uint16_t*>(base)[start + k / 2 * 2 * kPanel + column * 2 + k % 2] =
              row < 0 || k >= w_.num_in ? 0 : source_.raw16(first + k);
        break;
      case SAGE_INT8: pack_int8(panel * kPanel + column, base + start, column, value); break;
      default: pack_int4(base + start / kGroup / kPanel * Int4Product::kBlock, column, value);
    }
  }

  template <class Value>
  void pack_int8(int out, char* base, int column, Value value) {
    float most = 0;
    for (int k = 0; k < w_.num_in; ++k) most = std::max(most, std::fabs(value(k)));
    const float scale = most / 127, inverse = most > 0 ? 127 / most : 0;
    int32_t sum = 0;
    for (int k = 0; k < num_in_; ++k) {
      const int8_t q = static_cast<int8_t>(std::lrintf(value(k) * inverse));
      base[k / 4 * 4 * kPanel + column * 4 + k % 4] = static_cast<char>(q);
      sum += q;
    }
    const_cast<float*>(w_.scale)[out] = scale;
    const_cast<int32_t*>(w_.sums)[out] = sum;
  }

  template <class Value>
  void pack_int4(char* base, int column, Value value) {
    for (int g = 0; g < num_in_ / kGroup; ++g) {
      char* block = base + static_cast<int64_t>(g) * Int4Product::kBlock;
      float x[kGroup];
      for (int i = 0; i < kGroup; ++i) x[i] = value(g * kGroup + i);
      const uint16_t scale = best_scale(x);
      reinterpret_cast<uint16_t*>(block)[column] = scale;
      for (int i = 0; i < kGroup; ++i) {
        const int at = kPanel * 2 + (i % 16 / 4 * kPanel + column) * 4 + i % 4;
        const int nibble = nearest(x[i], _cvtsh_ss(scale)) + 8;
        block[at] = static_cast<char>(i < 16 ? nibble : (block[at] & 15) | nibble << 4);
      }
    }
  }

  static int nearest(float x, float scale) {
    if (scale == 0) return 0;
    return std::min(7, std::max(-8, static_cast<int>(std::lrintf(x / scale))));
  }

  // Of a few scales about the largest magnitude, of either sign, the one with the smallest squared error.
  static uint16_t best_scale(const float* x) {
    float extreme = 0;
    for (int i = 0; i < kGroup; ++i)
      if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
    uint16_t best = 0;
    float least = INFINITY;
    for (const float steps : {-8.0f, -7.6f, -7.2f, -8.8f, 7.0f, 7.5f}) {
      const uint16_t candidate = to_f16(extreme / steps);
      const float scale = _cvtsh_ss(candidate);
      float error = 0;
      for (int i = 0; i < kGroup; ++i) {
        const float miss = x[i] - scale * static_cast<float>(nearest(x[i], scale));
        error += miss * miss;
      }
      if (error < least) least = error, best = candidate;
    }
    return best;
  }

  const SageLinear& w_;
  const Source& source_;
  const int num_in_;
  std::atomic<int> next_{0};
};

}  // namespace SAGE_ISA
