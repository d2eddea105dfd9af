// Philox4x32-10, a counter-based random generator (Salmon, Moraes, Dror and Shaw, 2011).
#pragma once

#include <cstdint>

namespace sage {

constexpr int kPhiloxRounds = 10;
constexpr uint32_t kPhiloxFactor0 = 0xD2511F53u, kPhiloxFactor1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxStep0 = 0x9E3779B9u, kPhiloxStep1 = 0xBB67AE85u;

// Replaces the four words of a counter by four random ones.
inline __attribute__((always_inline)) void philox(uint32_t* word, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t product0 = static_cast<uint64_t>(word[0]) * kPhiloxFactor0;
    const uint64_t product1 = static_cast<uint64_t>(word[2]) * kPhiloxFactor1;
    word[0] = static_cast<uint32_t>(product1 >> 32) ^ word[1] ^ key0;
    word[2] = static_cast<uint32_t>(product0 >> 32) ^ word[3] ^ key1;
    word[1] = static_cast<uint32_t>(product1);
    word[3] = static_cast<uint32_t>(product0);
    key0 += kPhiloxStep0;
    key1 += kPhiloxStep1;
  }
}

}  // namespace sage
