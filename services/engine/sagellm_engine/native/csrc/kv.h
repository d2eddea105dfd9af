// Keys and values in pages of 16 tokens, read and written in place.
//
// Per layer [page][kv head]{K [D][16], V [16][D]}: keys lie with the tokens side by side, so that a vector holds the
// same dimension of many keys. BF16 blocks hold {K [D / 2][16][2], V [8][D][2]}: two dimensions of a key, and the same
// dimension of two values, side by side as VDPBF16PS reads them. INT8 blocks end with the scales of their keys [16] and
// values [16], one per token.
#pragma once

#include "abi.h"
#include "matmul.h"

namespace SAGE_ISA {

constexpr int kPage = 16;
constexpr int kMaxHeadDim = 256;

struct KvF32 {
  using Value = float;
  static constexpr bool kScaled = false, kPairs = false;
  static vf load_vector(const float* p) { return load(p); }
  static float from(float x, float) { return x; }
};

struct KvBf16 {
  using Value = uint16_t;
  static constexpr bool kScaled = false, kPairs = true;
};

struct KvInt8 {
  using Value = int8_t;
  static constexpr bool kScaled = true, kPairs = false;
  static vf load_vector(const int8_t* p) { return from_int8(p); }
  static int8_t from(float x, float inverse) { return static_cast<int8_t>(__builtin_rintf(x * inverse)); }
};

// Where one kv head's part of a page lies.
template <class Kv>
struct PageBlock {
  typename Kv::Value* keys;
  typename Kv::Value* values;
  float* key_scales;    // INT8 only
  float* value_scales;  // INT8 only
};

template <class Kv>
int64_t block_bytes(int head_dim) {
  return 2 * kPage * (head_dim * static_cast<int64_t>(sizeof(typename Kv::Value)) + (Kv::kScaled ? 4 : 0));
}

template <class Kv>
PageBlock<Kv> page_block(const SageModel& model, int layer, int page, int kv_head) {
  const int64_t index = (layer * model.num_pages + page) * model.num_kv_heads + kv_head;
  auto* keys = reinterpret_cast<typename Kv::Value*>(
      static_cast<char*>(model.kv) + index * block_bytes<Kv>(model.head_dim));
  auto* values = keys + kPage * model.head_dim;
  auto* scales = reinterpret_cast<float*>(values + kPage * model.head_dim);
  return {keys, values, scales, scales + kPage};
}

inline float largest(const float* x, int n) {
  float found = 0;
  for (int i = 0; i < n; ++i) found = __builtin_fmaxf(found, __builtin_fabsf(x[i]));
  return found;
}

// Puts one token's key and value [D] of a kv head into its page.
template <class Kv>
void write_token(const PageBlock<Kv>& block, int slot, const float* key, const float* value, int head_dim) {
  float inverse_key = 1, inverse_value = 1;
  if constexpr (Kv::kScaled) {
    block.key_scales[slot] = largest(key, head_dim) / 127;
    block.value_scales[slot] = largest(value, head_dim) / 127;
    inverse_key = block.key_scales[slot] > 0 ? 1 / block.key_scales[slot] : 0;
    inverse_value = block.value_scales[slot] > 0 ? 1 / block.value_scales[slot] : 0;
  }
  if constexpr (Kv::kPairs) {
    alignas(64) uint16_t halves[kMaxHeadDim];
    for (int d = 0; d < head_dim; d += kLanes) store_bf16(halves + d, load(key + d));
    Unit *keys = reinterpret_cast<Unit*>(block.keys), *values = reinterpret_cast<Unit*>(block.values);
    for (int u = 0; u < head_dim / 2; ++u) keys[u * kPage + slot] = reinterpret_cast<const Unit*>(halves)[u];
    for (int d = 0; d < head_dim; d += kLanes)
      store_halves(values + slot / 2 * head_dim + d, slot % 2, to_bf16(load(value + d)));
  } else {
    for (int d = 0; d < head_dim; ++d) block.keys[d * kPage + slot] = Kv::from(key[d], inverse_key);
    for (int d = 0; d < head_dim; ++d) block.values[slot * head_dim + d] = Kv::from(value[d], inverse_value);
  }
}

}  // namespace SAGE_ISA
