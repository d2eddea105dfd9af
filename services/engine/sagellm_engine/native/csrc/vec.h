// Vectors of floats and integers, one width per instruction set: AVX-512 or AVX2 with FMA and F16C.
// Everything is in the namespace of its instruction set, so that several can live in one library.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace SAGE_ISA {

#define SAGE_INLINE inline __attribute__((always_inline))

using Unit = int32_t __attribute__((may_alias));  // four bytes of something
constexpr float kLog2e = 1.44269504088896341f;

#ifdef __AVX512F__

using vf = __m512;
using vi = __m512i;
constexpr int kLanes = 16;
constexpr int kRegisters = 32;

inline vf zero() { return _mm512_setzero_ps(); }
inline vi zero_i() { return _mm512_setzero_si512(); }
inline vf set1(float x) { return _mm512_set1_ps(x); }
inline vi set1_i(int32_t x) { return _mm512_set1_epi32(x); }
inline vf load(const float* p) { return _mm512_loadu_ps(p); }
inline vi load_i(const void* p) { return _mm512_loadu_si512(p); }
inline void store(float* p, vf x) { _mm512_storeu_ps(p, x); }
inline void store_i(void* p, vi x) { _mm512_storeu_si512(p, x); }
inline vf fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
inline vf add(vf a, vf b) { return _mm512_add_ps(a, b); }
inline vf sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
inline vf mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
inline vf div(vf a, vf b) { return _mm512_div_ps(a, b); }
inline vf max(vf a, vf b) { return _mm512_max_ps(a, b); }
inline vf min(vf a, vf b) { return _mm512_min_ps(a, b); }
inline vf abs(vf a) { return _mm512_abs_ps(a); }
// The lanes of x that are at least as large as in bound, the others 0; and how many there are.
inline vf at_least(vf x, vf bound) { return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, bound, _CMP_GE_OQ), x); }
inline int count_at_least(vf x, vf bound) {
  return __builtin_popcount(_mm512_cmp_ps_mask(x, bound, _CMP_GE_OQ));
}
inline vf round(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline vi to_int(vf a) { return _mm512_cvtps_epi32(a); }
inline vf to_float(vi a) { return _mm512_cvtepi32_ps(a); }
inline vf as_float(vi a) { return _mm512_castsi512_ps(a); }
inline vi as_int(vf a) { return _mm512_castps_si512(a); }
inline vi add_i(vi a, vi b) { return _mm512_add_epi32(a, b); }
inline vi sub_i(vi a, vi b) { return _mm512_sub_epi32(a, b); }
inline vi mul_i(vi a, vi b) { return _mm512_mullo_epi32(a, b); }
inline vi and_i(vi a, vi b) { return _mm512_and_si512(a, b); }
inline vi xor_i(vi a, vi b) { return _mm512_xor_si512(a, b); }
// A value in one lane, zero in the others.
inline vi one_lane(int lane, int32_t x) { return _mm512_maskz_set1_epi32(static_cast<__mmask16>(1u << lane), x); }
// Of every 64 bits: the product of the low halves; the high half, twice; the halves of a and b side by side.
inline vi mul_wide(vi a, vi b) { return _mm512_mul_epu32(a, b); }
inline vi high_words(vi a) { return _mm512_shuffle_epi32(a, _MM_PERM_DDBB); }
inline vi pair_words(vi low, vi high) { return _mm512_mask_shuffle_epi32(low, 0xaaaa, high, _MM_PERM_CCAA); }
// The even and the odd 64 bits of a and b in turn.
inline vi even_quads(vi a, vi b) { return _mm512_unpacklo_epi64(a, b); }
inline vi odd_quads(vi a, vi b) { return _mm512_unpackhi_epi64(a, b); }
template <int kBits>
inline vi shift_left(vi a) { return _mm512_slli_epi32(a, kBits); }
template <int kBits>
inline vi shift_right(vi a) { return _mm512_srli_epi32(a, kBits); }
inline vf from_f16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline vf from_int8(const int8_t* p) {
  return to_float(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
// The lanes below n of a, the others from b.
inline vf first(int n, vf a, vf b) { return _mm512_mask_blend_ps(static_cast<__mmask16>((1u << n) - 1), b, a); }
// Stores the low 16 bits of each lane.
inline void store_low16(uint16_t* p, vi x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(x));
}
// Stores every lane's low 16 bits into one half of as many units of four bytes, leaving the other halves alone.
inline void store_halves(Unit* p, int half, vi x) {
  const __mmask32 which = half ? 0xaaaaaaaau : 0x55555555u;
  _mm512_mask_storeu_epi16(p, which, half ? shift_left<16>(x) : x);
}
// Stores the low 8 bits of each lane.
inline void store_low8(void* p, vi x) { _mm_storeu_si128(static_cast<__m128i*>(p), _mm512_cvtepi32_epi8(x)); }
// 2^n for whole n in [-126, 127].
inline vf power_of_two(vf n) { return as_float(shift_left<23>(add_i(to_int(n), set1_i(127)))); }

#ifdef __AVX512VNNI__
inline vi dot4(vi acc, vi unsigned8, vi signed8) {
  asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(unsigned8), "v"(signed8));  // GCC spills the intrinsic's sums
  return acc;
}
#else
inline vi dot4(vi acc, vi unsigned8, vi signed8) {
  const vi low = _mm512_set1_epi16(0xff);
  const vi even = _mm512_madd_epi16(
      and_i(unsigned8, low), _mm512_srai_epi16(_mm512_slli_epi16(signed8, 8), 8));
  const vi odd = _mm512_madd_epi16(_mm512_srli_epi16(unsigned8, 8), _mm512_srai_epi16(signed8, 8));
  return add_i(acc, add_i(even, odd));
}
#endif

#ifdef __AVX512BF16__
constexpr bool kHasBf16 = true;
inline vf dot2(vf acc, vi a, vi b) {
  return _mm512_dpbf16_ps(acc, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}
#else
constexpr bool kHasBf16 = false;
inline vf dot2(vf acc, vi, vi) { return acc; }
#endif

#else

using vf = __m256;
using vi = __m256i;
constexpr int kLanes = 8;
constexpr int kRegisters = 16;
constexpr bool kHasBf16 = false;

inline vf zero() { return _mm256_setzero_ps(); }
inline vi zero_i() { return _mm256_setzero_si256(); }
inline vf set1(float x) { return _mm256_set1_ps(x); }
inline vi set1_i(int32_t x) { return _mm256_set1_epi32(x); }
inline vf load(const float* p) { return _mm256_loadu_ps(p); }
inline vi load_i(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline void store(float* p, vf x) { _mm256_storeu_ps(p, x); }
inline void store_i(void* p, vi x) { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }
inline vf fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
inline vf add(vf a, vf b) { return _mm256_add_ps(a, b); }
inline vf sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
inline vf mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
inline vf div(vf a, vf b) { return _mm256_div_ps(a, b); }
inline vf max(vf a, vf b) { return _mm256_max_ps(a, b); }
inline vf min(vf a, vf b) { return _mm256_min_ps(a, b); }
inline vf at_least(vf x, vf bound) { return _mm256_and_ps(_mm256_cmp_ps(x, bound, _CMP_GE_OQ), x); }
inline int count_at_least(vf x, vf bound) {
  return __builtin_popcount(_mm256_movemask_ps(_mm256_cmp_ps(x, bound, _CMP_GE_OQ)));
}
inline vf abs(vf a) { return _mm256_and_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff))); }
inline vf round(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline vi to_int(vf a) { return _mm256_cvtps_epi32(a); }
inline vf to_float(vi a) { return _mm256_cvtepi32_ps(a); }
inline vf as_float(vi a) { return _mm256_castsi256_ps(a); }
inline vi as_int(vf a) { return _mm256_castps_si256(a); }
inline vi add_i(vi a, vi b) { return _mm256_add_epi32(a, b); }
inline vi sub_i(vi a, vi b) { return _mm256_sub_epi32(a, b); }
inline vi mul_i(vi a, vi b) { return _mm256_mullo_epi32(a, b); }
inline vi and_i(vi a, vi b) { return _mm256_and_si256(a, b); }
inline vi xor_i(vi a, vi b) { return _mm256_xor_si256(a, b); }
inline vi mul_wide(vi a, vi b) { return _mm256_mul_epu32(a, b); }
inline vi high_words(vi a) { return _mm256_shuffle_epi32(a, 0xf5); }
inline vi one_lane(int lane, int32_t x) {
  return _mm256_and_si256(_mm256_cmpeq_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), set1_i(lane)), set1_i(x));
}
inline vi pair_words(vi low, vi high) { return _mm256_blend_epi32(low, _mm256_shuffle_epi32(high, 0xa0), 0xaa); }
inline vi even_quads(vi a, vi b) { return _mm256_unpacklo_epi64(a, b); }
inline vi odd_quads(vi a, vi b) { return _mm256_unpackhi_epi64(a, b); }
template <int kBits>
inline vi shift_left(vi a) { return _mm256_slli_epi32(a, kBits); }
template <int kBits>
inline vi shift_right(vi a) { return _mm256_srli_epi32(a, kBits); }
inline vf from_f16(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline vf from_int8(const int8_t* p) {
  return to_float(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
inline vf first(int n, vf a, vf b) {
  const vi index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_blendv_ps(b, a, as_float(_mm256_cmpgt_epi32(set1_i(n), index)));
}
inline void store_low16(uint16_t* p, vi x) {
  int32_t lanes[kLanes];
  store_i(lanes, x);
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<uint16_t>(lanes[i]);
}
inline void store_halves(Unit* p, int half, vi x) {
  int32_t lanes[kLanes];
  store_i(lanes, x);
  for (int i = 0; i < kLanes; ++i) __builtin_memcpy(reinterpret_cast<char*>(p + i) + 2 * half, lanes + i, 2);
}
inline void store_low8(void* p, vi x) {
  int32_t lanes[kLanes];
  store_i(lanes, x);
  for (int i = 0; i < kLanes; ++i) static_cast<uint8_t*>(p)[i] = static_cast<uint8_t>(lanes[i]);
}
inline vf power_of_two(vf n) { return as_float(shift_left<23>(add_i(to_int(n), set1_i(127)))); }
inline vi dot4(vi acc, vi unsigned8, vi signed8) {
  const vi low = _mm256_set1_epi16(0xff);
  const vi even = _mm256_madd_epi16(
      and_i(unsigned8, low), _mm256_srai_epi16(_mm256_slli_epi16(signed8, 8), 8));
  const vi odd = _mm256_madd_epi16(_mm256_srli_epi16(unsigned8, 8), _mm256_srai_epi16(signed8, 8));
  return add_i(acc, add_i(even, odd));
}
inline vf dot2(vf acc, vi, vi) { return acc; }

#endif

// Sum and maximum over the lanes, halves upon halves.
#ifdef __AVX512F__
inline float sum_lanes(vf x) { return _mm512_reduce_add_ps(x); }
inline float max_lanes(vf x) { return _mm512_reduce_max_ps(x); }
#else
inline float sum_lanes(vf x) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
inline float max_lanes(vf x) {
  __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}
#endif

// The two bfloat16 numbers of each lane.
inline vf low_half(vi pair) { return as_float(shift_left<16>(pair)); }
inline vf high_half(vi pair) { return as_float(and_i(pair, set1_i(static_cast<int32_t>(0xffff0000u)))); }

// e^x with an error of about one unit in the last place; below -87.3 the result is 0.
// Range reduction and polynomial: Cephes (S. Moshier), expf.
inline vf exp(vf x) {
  const vf lowest = set1(-87.33654f);
  const vf clamped = min(set1(88.0f), max(lowest, x));  // in this order, NaN stays NaN
  const vf n = round(mul(clamped, set1(kLog2e)));
  vf r = fma(n, set1(-0.693359375f), clamped);
  r = fma(n, set1(2.12194440e-4f), r);
  vf p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = add(fma(mul(r, r), p, r), set1(1.0f));
  const vf result = mul(p, power_of_two(n));
#ifdef __AVX512F__
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, lowest, _CMP_NLT_UQ), result);
#else
  return _mm256_and_ps(result, _mm256_cmp_ps(x, lowest, _CMP_NLT_UQ));
#endif
}

// 2^x with an error of about one unit in the last place, for x in [-126, 127]; in AVX-512 down to where it is 0.
// Polynomial: Cephes (S. Moshier), exp2f.
inline vf exp2_within(vf x) {
  const vf n = round(x);
  const vf r = sub(x, n);
  vf p = set1(1.535336188319500e-4f);
  p = fma(p, r, set1(1.339887440266574e-3f));
  p = fma(p, r, set1(9.618437357674640e-3f));
  p = fma(p, r, set1(5.550332471162809e-2f));
  p = fma(p, r, set1(2.402264791363012e-1f));
  p = fma(p, r, set1(6.931472028550421e-1f));
  p = fma(p, r, set1(1.0f));
#ifdef __AVX512F__
  return _mm512_scalef_ps(p, n);
#else
  return mul(p, power_of_two(n));
#endif
}

// 2^x for x ≤ 0, -infinity included; NaN stays NaN.
inline vf exp2_down(vf x) {
  const vf lowest = set1(kLanes == 16 ? -200.0f : -126.0f);
  const vf power = exp2_within(max(lowest, x));  // in this order, NaN stays NaN
#ifdef __AVX512F__
  return power;
#else
  return _mm256_and_ps(power, _mm256_cmp_ps(x, lowest, _CMP_NLT_UQ));
#endif
}

// Natural logarithm of a positive normal number, within about one unit in the last place.
// Cephes (S. Moshier), logf.
inline vf log(vf x) {
  const vi bits = as_int(x);
  vf mantissa = as_float(add_i(and_i(bits, set1_i(0x007fffff)), set1_i(0x3f000000)));  // in [0.5, 1)
  vf exponent = to_float(sub_i(shift_right<23>(bits), set1_i(126)));
#ifdef __AVX512F__
  const __mmask16 small = _mm512_cmp_ps_mask(mantissa, set1(0.707106781186547524f), _CMP_LT_OQ);
  exponent = _mm512_mask_sub_ps(exponent, small, exponent, set1(1.0f));
  const vf doubled = _mm512_maskz_mov_ps(small, mantissa);
#else
  const vf small = _mm256_cmp_ps(mantissa, set1(0.707106781186547524f), _CMP_LT_OQ);
  exponent = sub(exponent, _mm256_and_ps(small, set1(1.0f)));
  const vf doubled = _mm256_and_ps(small, mantissa);
#endif
  const vf r = add(sub(mantissa, set1(1.0f)), doubled);
  const vf square = mul(r, r);
  vf p = set1(7.0376836292e-2f);
  for (const float c : {-1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f, -1.6668057665e-1f,
                        2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f})
    p = fma(p, r, set1(c));
  vf y = mul(mul(p, r), square);
  y = fma(exponent, set1(-2.12194440e-4f), y);
  y = fma(square, set1(-0.5f), y);
  return fma(exponent, set1(0.693359375f), add(r, y));
}

// Rounds to bfloat16, to nearest even; the result is in the low 16 bits. NaN stays NaN.
inline vi to_bf16(vf x) {
#ifdef __AVX512BF16__
  return _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x)));
#else
  const vi bits = as_int(x);
  const vi odd = and_i(shift_right<16>(bits), set1_i(1));
  return shift_right<16>(add_i(bits, add_i(odd, set1_i(0x7fff))));
#endif
}
inline void store_bf16(uint16_t* p, vf x) {
#ifdef __AVX512BF16__
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x)));
#else
  store_low16(p, to_bf16(x));
#endif
}

// x / (1 + e^-x)
inline vf silu(vf x) {
  const vf power = mul(x, set1(-kLog2e));
  return div(x, add(set1(1.0f), exp2_within(min(set1(126.0f), max(set1(-126.0f), power)))));
}

// Puts rows side by side: to[u * rows + m] = from[m * stride + u], for u < count.
#ifdef __AVX512F__
inline void interleave(const Unit* from, int64_t stride, int rows, int count, Unit* to) {
  const __mmask16 lanes = static_cast<__mmask16>((1u << rows) - 1);
  for (int u = 0; u < count; u += 16) {
    vi a[16], b[16];
    const __mmask16 columns = static_cast<__mmask16>(count - u >= 16 ? 0xffff : (1u << (count - u)) - 1);
    for (int m = 0; m < 16; ++m) a[m] = m < rows ? _mm512_maskz_loadu_epi32(columns, from + m * stride + u) : zero_i();
    for (int i = 0; i < 16; i += 2) {
      b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
      b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
      for (int j = 0; j < 2; ++j) {
        a[i + 2 * j] = _mm512_unpacklo_epi64(b[i + j], b[i + j + 2]);
        a[i + 2 * j + 1] = _mm512_unpackhi_epi64(b[i + j], b[i + j + 2]);
      }
    // a[4 g + c] holds column c (then 4 + c, 8 + c, 12 + c) of rows 4 g to 4 g + 3.
    for (int c = 0; c < 4; ++c) {
      const vi low = _mm512_shuffle_i32x4(a[c], a[4 + c], 0x88), low2 = _mm512_shuffle_i32x4(a[c], a[4 + c], 0xdd);
      const vi high = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0x88);
      const vi high2 = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0xdd);
      b[c] = _mm512_shuffle_i32x4(low, high, 0x88);
      b[8 + c] = _mm512_shuffle_i32x4(low, high, 0xdd);
      b[4 + c] = _mm512_shuffle_i32x4(low2, high2, 0x88);
      b[12 + c] = _mm512_shuffle_i32x4(low2, high2, 0xdd);
    }
    for (int i = 0; i < 16 && u + i < count; ++i) _mm512_mask_storeu_epi32(to + (u + i) * rows, lanes, b[i]);
  }
}
#else
inline void interleave(const Unit* from, int64_t stride, int rows, int count, Unit* to) {
  for (int m = 0; m < rows; ++m)
    for (int u = 0; u < count; ++u) to[u * rows + m] = from[m * stride + u];
}
#endif

}  // namespace SAGE_ISA
