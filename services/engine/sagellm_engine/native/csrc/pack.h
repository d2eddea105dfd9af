// Puts a weight [out, in] into the panels that panels.h describes.
#pragma once

#include <atomic>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <vector>

#include "pool.h"
#include "rows.h"

namespace SAGE_ISA {

inline uint16_t to_f16(float x) { return _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT); }

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
    return from_bf16(raw16(at));
  }
};

class Packer {
 public:
  Packer(const SageLinear& w, const Source& source, const SageScreen* screen = nullptr)
      : w_(w), source_(source), screen_(screen), num_in_(padded_in(w)) {}

  void run() {
    sage::Pool::instance().run([](void* self, int) { static_cast<Packer*>(self)->work(); }, this);
  }

  // Whether the weight can be kept in BF12: its exponents are few enough.
  bool fits() {
    sage::Pool::instance().run([](void* self, int) { static_cast<Packer*>(self)->check(); }, this);
    return fits_;
  }

 private:
  void work() {
    for (int panel; (panel = next_.fetch_add(1)) < num_panels(w_);)
      if (w_.kind == SAGE_BF12)
        pack_bf12(panel);
      else
        for (int column = 0; column < kPanel; ++column) {
          pack_column(panel, column);
          if (screen_ != nullptr) bound(panel * kPanel + column);
        }
  }

  void check() {
    for (int panel; fits_ && (panel = next_.fetch_add(1)) < num_panels(w_);) {
      const std::vector<uint16_t> values = bf16_panel(panel);
      if (Bf12Packer(values.data(), num_in_).num_strays() > most_strays(w_)) fits_ = false;
    }
  }

  void pack_bf12(int panel) const {
    const std::vector<uint16_t> values = bf16_panel(panel);
    Bf12Packer(values.data(), num_in_)
        .write(const_cast<char*>(panel_at(w_, panel)), const_cast<char*>(inputs_at(w_, panel, 0)));
  }

  // A panel of bfloat16 numbers as BF16 has it.
  std::vector<uint16_t> bf16_panel(int panel) const {
    std::vector<uint16_t> values(static_cast<size_t>(num_in_) * kPanel);
    for (int column = 0; column < kPanel; ++column) put_bf16(panel * kPanel + column, values.data() + column * 2);
    return values;
  }

  void put_bf16(int out, uint16_t* to) const {
    const int row = source_.row(w_, out);
    if (row < 0) return;
    for (int k = 0; k < w_.num_in; ++k)
      to[k / 2 * 2 * kPanel + k % 2] = source_.raw16(static_cast<int64_t>(row) * w_.num_in + k);
  }

  void pack_column(int panel, int column) {
    const int row = source_.row(w_, panel * kPanel + column);
    const int64_t first = static_cast<int64_t>(row) * w_.num_in;
    const auto value = [&](int k) { return row < 0 || k >= w_.num_in ? 0.0f : source_.value(first + k); };
    char* base = const_cast<char*>(panel_at(w_, panel));
    switch (w_.kind) {
      case SAGE_F32:
        for (int k = 0; k < num_in_; ++k) reinterpret_cast<float*>(base)[k * kPanel + column] = value(k);
        break;
      case SAGE_F16:
        for (int k = 0; k < num_in_; ++k)
          reinterpret_cast<uint16_t*>(base)[k * kPanel + column] =
              row < 0 || k >= w_.num_in ? 0 : source_.raw16(first + k);
        break;
      case SAGE_BF16: put_bf16(panel * kPanel + column, reinterpret_cast<uint16_t*>(base) + column * 2); break;
      case SAGE_INT8: pack_int8(panel * kPanel + column, base, column, value); break;
      default: pack_int4(base, column, value);
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

  // How far off a packed output is. Of one that is out of the ordinary nothing is relied on: its scale becomes 0.
  void bound(int out) const {
    std::vector<float> kept(num_in_);
    gather_row(w_, out, kept.data());
    double missed = 0, length = 0, kept_length = 0;
    for (int k = 0; k < w_.num_in && out < w_.num_out; ++k) {
      const double value = source_.value(static_cast<int64_t>(out) * w_.num_in + k), miss = value - kept[k];
      missed += miss * miss;
      length += value * value;
      kept_length += static_cast<double>(kept[k]) * kept[k];
    }
    const float longest = static_cast<float>(1.001 * std::sqrt(std::max(length, kept_length)));
    const bool in_range = longest == 0.0f || (longest > kLeastLength && longest < kMostLength);
    const bool ordinary = out < w_.num_out && in_range;
    if (!ordinary) const_cast<float*>(w_.scale)[out] = 0.0f;
    const_cast<float*>(screen_->misses)[out] = ordinary ? static_cast<float>(1.001 * std::sqrt(missed)) : FLT_MAX;
    const_cast<float*>(screen_->lengths)[out] = ordinary ? longest : 0.0f;
  }

  template <class Value>
  void pack_int4(char* base, int column, Value value) {
    for (int g = 0; g < num_in_ / kGroup; ++g) {
      char* block = base + static_cast<int64_t>(g) * kInt4Block;
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
  const SageScreen* screen_;  // whose weight it is, or null
  const int num_in_;
  std::atomic<int> next_{0};
  std::atomic<bool> fits_{true};
};

}  // namespace SAGE_ISA
