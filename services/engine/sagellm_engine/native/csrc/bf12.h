// bfloat16 weights in 12 bits each, nothing lost: what is read from memory bounds a step of few rows.
//
// The exponents of a weight matrix are few: those of normally distributed numbers take 2.6 bits on average (DFloat11,
// Zhang et al., 2025, which codes them in variable length). Here sign and mantissa are kept as they are, and of the
// exponent its number, four bits, in a table of the panel: of zero, and of the fifteen most frequent. Weights with any
// other exponent, one of ten thousand, are strays: zero in their place, listed in the panel's head, and added to the
// sums last, each as a register of weights that are zero but for one.
//
// Head: exponents u16 [2][16], shifted to where they belong, twice, so that a fifth bit of an index does not matter;
// the number of strays i64; strays. Then for each four inputs, which in BF16 are words u16 [2 pairs of inputs][2][2 L]:
//   of each pair, [2 L] words of two weights, a of the first vector and b of the second: from the highest bit on sign
//   b, mantissa a, sign a, mantissa b
//   [2 L] words of the four weights' exponents, four bits each
#pragma once

#include <cstring>

#include "panels.h"

namespace SAGE_ISA {

constexpr int kBf12Inputs = 4;
constexpr uint16_t kSignAndMantissa = 0x807f;
#ifdef __AVX512F__
constexpr bool kHasBf12 = true;

struct Bf12Reader {
  explicit Bf12Reader(const char* panel)
      : exponents(load_i(panel)), kept(_mm512_set1_epi16(static_cast<short>(kSignAndMantissa))),
        swapped(_mm512_set_epi64(0x0e0f0c0d0a0b0809, 0x0607040502030001, 0x0e0f0c0d0a0b0809, 0x0607040502030001,
                                 0x0e0f0c0d0a0b0809, 0x0607040502030001, 0x0e0f0c0d0a0b0809, 0x0607040502030001)) {}

  // Reads four inputs: two pairs of two vectors as BF16 has them.
  SAGE_INLINE void read(const char* from, vi (&w)[2][2]) const {
    const vi codes = load_i(from + 2 * 2 * kPanel);
    for (int pair = 0; pair < 2; ++pair) {
      const vi both = load_i(from + pair * 2 * kPanel);
      w[pair][0] = number(_mm512_shuffle_epi8(both, swapped), _mm512_srli_epi16(codes, 8 * pair));
      w[pair][1] = number(both, _mm512_srli_epi16(codes, 8 * pair + 4));
    }
  }

 private:
  SAGE_INLINE vi number(vi rest, vi code) const {
    constexpr int kFirstAndSecondOrThird = 0xea;
    return _mm512_ternarylogic_epi32(rest, kept, _mm512_permutexvar_epi16(code, exponents), kFirstAndSecondOrThird);
  }

  const vi exponents, kept, swapped;
};
#else
constexpr bool kHasBf12 = false;

struct Bf12Reader {
  explicit Bf12Reader(const char*) {}
  void read(const char*, vi (&)[2][2]) const {}
};
#endif

inline const Stray* strays_of(const char* panel) {
  return reinterpret_cast<const Stray*>(panel + kCacheLine + sizeof(Stray));
}
inline int num_strays(const char* panel) {
  int64_t count;
  std::memcpy(&count, panel + kCacheLine, sizeof count);
  return static_cast<int>(count);
}

// Stores four inputs as BF16 has them.
SAGE_INLINE void store_unpacked(const vi (&w)[2][2], char* to) {
  for (int pair = 0; pair < 2; ++pair)
    for (int j = 0; j < 2; ++j, to += 4 * kLanes) store_i(to, w[pair][j]);
}

// One column of a panel: the inputs of one output.
inline void gather_bf12(const char* panel, const char* inputs, int num_in, int column, float* out) {
  const Bf12Reader reader(panel);
  for (int k = 0; k < num_in; k += kBf12Inputs, inputs += kBf12Inputs * kPanel * 3 / 2) {
    vi w[2][2];
    uint16_t values[2][2 * kPanel];
    reader.read(inputs, w);
    store_unpacked(w, reinterpret_cast<char*>(values));
    for (int i = 0; i < kBf12Inputs; ++i) out[k + i] = from_bf16(values[i / 2][column * 2 + i % 2]);
  }
  const Stray* stray = strays_of(panel);
  for (int left = num_strays(panel); left > 0; --left, ++stray)
    if (stray->column == column) out[stray->input] = from_bf16(stray->value);
}

// Packs one panel from BF16 [in / 2][kPanel][2].
class Bf12Packer {
 public:
  // Takes the fifteen most frequent exponents, the lesser ones first where that leaves a choice.
  Bf12Packer(const uint16_t* values, int num_in) : values_(values), num_(num_in * kPanel) {
    int seen[256] = {};
    for (int i = 0; i < num_; ++i) ++seen[exponent(values[i])];
    seen[0] = 0;
    num_strays_ = num_ - zeros();
    for (int n = 1; n < 16; ++n) {
      int best = 0;
      for (int e = 1; e < 256; ++e)
        if (seen[e] > seen[best]) best = e;
      num_strays_ -= seen[best];
      if (seen[best] > 0) number_[best] = static_cast<uint8_t>(n);
      table_[n] = static_cast<uint16_t>(best << 7);
      seen[best] = 0;
    }
  }

  int num_strays() const { return num_strays_; }

  void write(char* panel, char* inputs) const {
    for (int copy = 0; copy < 2; ++copy) std::memcpy(panel + copy * sizeof table_, table_, sizeof table_);
    const int64_t count = num_strays_;
    std::memcpy(panel + kCacheLine, &count, sizeof count);
    Stray* stray = const_cast<Stray*>(strays_of(panel));
    for (int i = 0; i < num_; ++i)
      if (is_stray(values_[i]))
        *stray++ = {static_cast<uint16_t>(i / (2 * kPanel) * 2 + i % 2), static_cast<uint16_t>(i / 2 % kPanel),
                    values_[i], 0};
    for (int i = 0; i < num_; i += kBf12Inputs * kPanel) write_block(values_ + i, inputs + i / 2 * 3);
  }

 private:
  static int exponent(uint16_t value) { return value >> 7 & 0xff; }
  bool is_stray(uint16_t value) const { return exponent(value) != 0 && number_[exponent(value)] == 0; }
  int zeros() const {
    int count = 0;
    for (int i = 0; i < num_; ++i) count += exponent(values_[i]) == 0;
    return count;
  }

  void write_block(const uint16_t* values, char* to) const {
    uint16_t codes[kPanel] = {};
    for (int pair = 0; pair < 2; ++pair) {
      uint16_t both[kPanel];
      for (int i = 0; i < kPanel; ++i) {
        uint16_t part[2];
        for (int j = 0; j < 2; ++j) {
          const uint16_t value = values[(pair * 2 + j) * kPanel + i];
          part[j] = is_stray(value) ? 0 : value & kSignAndMantissa;
          codes[i] = static_cast<uint16_t>(codes[i] | number_[exponent(value)] << 4 * (pair * 2 + j));
        }
        both[i] = static_cast<uint16_t>((part[1] & kSignAndMantissa) | (part[0] & 0x7f) << 8 | part[0] >> 15 << 7);
      }
      std::memcpy(to + pair * sizeof both, both, sizeof both);
    }
    std::memcpy(to + 4 * kPanel, codes, sizeof codes);
  }

  const uint16_t* values_;
  const int num_;
  int num_strays_;
  uint16_t table_[16] = {};
  uint8_t number_[256] = {};
};

}  // namespace SAGE_ISA
