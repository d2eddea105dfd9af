// How packed weights lie in memory.
//
// A weight [out, in] is packed into panels of kPanel outputs, each holding all inputs one after the other, so that one
// layout serves every number of rows and every thread reads a stream. With L = kLanes, two vectors a panel:
//   F32, F16  [panel][in][2][L]
//   BF16      [panel][in / 2][2][L][2]          two inputs side by side, as VDPBF16PS reads them
//   BF12      [panel]{head, [in / 4]{...}}      the same numbers in 12 bits each, see bf12.h
//   INT8      [panel][in / 4][2][L][4]          four inputs side by side, as VPDPBUSD reads them
//   INT4      [panel][in / 32]{f16 scale [2][L], nibbles [4][2][L][4]}: low nibbles inputs 0..15, high ones 16..31
// Inputs are padded with zeros to a multiple of 32, outputs to whole panels.
#pragma once

#include "abi.h"
#include "vec.h"

namespace SAGE_ISA {

constexpr int kPanel = 2 * kLanes;
constexpr int kGroup = 32;  // inputs that share a scale in INT4; also what inputs are padded to
constexpr int kInt4Block = kPanel * (2 + kGroup / 2);  // bytes of one group of a panel
constexpr int kCacheLine = 64;

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
inline int padded_in(const SageLinear& w) { return static_cast<int>(round_up(w.num_in, kGroup)); }
inline int num_panels(const SageLinear& w) { return static_cast<int>(round_up(w.num_out, kPanel) / kPanel); }

inline bool is_bfloat16(const SageLinear& w) { return w.kind == SAGE_BF16 || w.kind == SAGE_BF12; }
inline float from_bf16(uint16_t value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}

// Strays of a panel in BF12, of which there may be one of 512 weights.
struct Stray {
  uint16_t input, column, value, unused;
};
inline int most_strays(const SageLinear& w) { return padded_in(w) * kPanel / 512; }

// Bytes before the inputs of a panel, and of its first inputs, whole groups.
inline int64_t head_bytes(const SageLinear& w) {
  return w.kind == SAGE_BF12 ? kCacheLine + round_up((most_strays(w) + 1) * sizeof(Stray), kCacheLine) : 0;
}
inline int64_t input_bytes(const SageLinear& w, int inputs) {
  switch (w.kind) {
    case SAGE_F32: return static_cast<int64_t>(inputs) * kPanel * 4;
    case SAGE_BF12: return static_cast<int64_t>(inputs) * kPanel * 3 / 2;
    case SAGE_INT8: return static_cast<int64_t>(inputs) * kPanel;
    case SAGE_INT4: return static_cast<int64_t>(inputs) / kGroup * kInt4Block;
    default: return static_cast<int64_t>(inputs) * kPanel * 2;
  }
}
inline int64_t panel_bytes(const SageLinear& w) { return head_bytes(w) + input_bytes(w, padded_in(w)); }
inline int64_t packed_bytes(const SageLinear& w) { return num_panels(w) * panel_bytes(w); }

inline const char* panel_at(const SageLinear& w, int panel) {
  return static_cast<const char*>(w.weight) + panel * panel_bytes(w);
}
inline const char* inputs_at(const SageLinear& w, int panel, int from) {
  return panel_at(w, panel) + head_bytes(w) + input_bytes(w, from);
}

}  // namespace SAGE_ISA
