// Gumbel noise as a pure function of (seed, position, stream, token): Philox with key = seed and
// counter = (position, stream, token / 4, 0), whose word token % 4 it uses.
#pragma once

#include "abi.h"
#include "philox.h"
#include "vec.h"

namespace SAGE_ISA {

constexpr float kNoiseRange = 19.448f;  // no noise is larger than another by more
constexpr int kNoiseTokens = 2 * kLanes;

class Noise {
 public:
  explicit Noise(const SageSampling& options)
      : position_(set1_i(static_cast<int32_t>(options.position))),
        stream_(set1_i(static_cast<int32_t>(options.stream))),
        key_{static_cast<uint32_t>(options.seed), static_cast<uint32_t>(options.seed >> 32)} {
    int32_t blocks[kLanes];
    for (int i = 0; i < kLanes; ++i) blocks[i] = i % 2 ? 0 : i / 4 + (i % 4 ? kLanes / 4 : 0);
    blocks_ = load_i(blocks);
  }

  // Numbers in (0, 1) of kNoiseTokens tokens from `first_id` on, a multiple of it. A counter's words lie in the low
  // halves of 64 bits, where products leave them; even places take the first blocks, odd places the second.
  void uniforms(int first_id, vf (&out)[2]) const {
    vi word[4] = {position_, stream_, add_i(blocks_, set1_i(first_id / 4)), zero_i()};
    uint32_t key0 = key_[0], key1 = key_[1];
    for (int round = 0; round < sage::kPhiloxRounds; ++round) {
      const vi product0 = mul_wide(word[0], set1_i(static_cast<int32_t>(sage::kPhiloxFactor0)));
      const vi product1 = mul_wide(word[2], set1_i(static_cast<int32_t>(sage::kPhiloxFactor1)));
      word[0] = xor_i(xor_i(high_words(product1), word[1]), set1_i(static_cast<int32_t>(key0)));
      word[2] = xor_i(xor_i(high_words(product0), word[3]), set1_i(static_cast<int32_t>(key1)));
      word[1] = product1;
      word[3] = product0;
      key0 += sage::kPhiloxStep0;
      key1 += sage::kPhiloxStep1;
    }
    const vi front = pair_words(word[0], word[1]), back = pair_words(word[2], word[3]);
    out[0] = uniform(even_quads(front, back));
    out[1] = uniform(odd_quads(front, back));
  }

  // The noise that a number in (0, 1) stands for.
  static vf gumbel(vf u) { return sub(zero(), log(sub(zero(), log(u)))); }

 private:
  static vf uniform(vi words) { return mul(add(to_float(shift_right<9>(words)), set1(0.5f)), set1(1.0f / (1 << 23))); }

  vi position_, stream_, blocks_;
  uint32_t key_[2];
};

}  // namespace SAGE_ISA
