// Causal attention of query rows over pages, for decode, chunk and prefill alike: decode is the one-row case.
//
// A piece of work is a few rows of one sequence under one kv head; the query heads of its group are rows of the same
// product. Keys are taken in tiles of kKeyTile at absolute positions, with a running maximum and sum (Milakov and
// Gimelshein, 2018; Dao et al., 2022), so that a row's arithmetic depends on nothing but its own position.
//
// Over bfloat16 pages, queries and weights are rounded to bfloat16 too where the processor multiplies it.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "kv.h"

namespace SAGE_ISA {

constexpr int kKeyTile = 64;
constexpr int kTilePages = kKeyTile / kPage;
constexpr int kMaxQueries = 48;  // query vectors of a piece of work
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// One kv head's part of a sequence's pages.
struct Pages {
  const int32_t* numbers;
  int count, layer, kv_head;
};

struct AttentionPlace {
  Pages pages;
  int first_position;    // of the piece's first row
  int num_rows;
  const float* queries;  // first row, first head of the group; scaled by `query_scale`
  int64_t query_stride;  // between rows
  const float* sinks;    // of the group's heads, or null
  int window;            // 0: none
  float cap;             // 0: none
};

// What queries are multiplied with beforehand: scores are in powers of two, after the cap if there is one.
inline float query_scale(const SageModel& model) { return model.score_scale * (model.score_cap > 0 ? 1 : kLog2e); }

template <class Kv>
class AttentionPiece {
 public:
  AttentionPiece(const SageModel& model, const AttentionPlace& place)
      : model_(model), place_(place),
        group_(model.num_heads / model.num_kv_heads), count_(place.num_rows * group_), dim_(model.head_dim) {
    for (int i = 0; i < count_; ++i) {
      maximum_[i] = place.sinks ? place.sinks[i % group_] * kLog2e : -kInfinity;
      std::fill(sums_[i], sums_[i] + kLanes, 0.0f);
      sums_[i][0] = place.sinks ? 1.0f : 0.0f;
    }
    std::fill(out_, out_ + count_ * dim_, 0.0f);
    for (int i = 0; i < count_; i += query_rows(i)) pack_queries(i, query_rows(i));
  }

  // Computes the rows; `put(row, head of the group, values [D])` gets each result. Meanwhile memory is asked for the
  // first of the pages that come next.
  template <class Put>
  void run(const Pages& next, Put put) {
    const int last = place_.first_position + place_.num_rows;
    const int seen_from = place_.window ? std::max(0, place_.first_position + 1 - place_.window) : 0;
    for (int start = seen_from / kKeyTile * kKeyTile; start < last; start += kKeyTile) {
      const int behind = start + kKeyTile;
      if (behind < last)
        look_ahead(place_.pages, behind / kPage);
      else
        look_ahead(next, 0);
      add_tile(start, std::min(kKeyTile, last - start));
    }
    for (int i = 0; i < count_; ++i) {
      const vf inverse = set1(1.0f / sum_lanes(load(sums_[i])));
      float* values = out_ + i * dim_;
      for (int d = 0; d < dim_; d += kLanes) store(values + d, mul(load(values + d), inverse));
      put(i / group_, i % group_, values);
    }
  }

 private:
  static constexpr bool kDot2 = Kv::kPairs && kHasBf16;

  // Queries of the tile that begins with the i-th: of a decode step all that a head has, up to eight.
  int query_rows(int i) const { return count_ - i == 7 && kMaxTile == 12 ? 7 : tile_rows(count_ - i); }

  // Lays queries out [D][rows], or [D / 2][rows][2] in bfloat16, as the rows of a product.
  void pack_queries(int first, int rows) {
    Unit* to = reinterpret_cast<Unit*>(queries_ + first * dim_);
    for (int i = first; i < first + rows; ++i, ++to) {
      const float* from = place_.queries + (i / group_) * place_.query_stride + (i % group_) * dim_;
      alignas(64) uint16_t halves[kMaxHeadDim];
      const Unit* units = reinterpret_cast<const Unit*>(from);
      if constexpr (kDot2) {
        for (int d = 0; d < dim_; d += kLanes) store_bf16(halves + d, load(from + d));
        units = reinterpret_cast<const Unit*>(halves);
      }
      const int count = kDot2 ? dim_ / 2 : dim_;
      for (int u = 0; u < count; ++u) to[u * rows] = units[u];
    }
  }

  // Notes which pages come next, from one of them on; the last ones may be fewer than a tile has.
  void look_ahead(const Pages& pages, int from) {
    for (int p = 0; p < kTilePages; ++p)
      soon_[p] = reinterpret_cast<const char*>(block_of(pages, std::min(from + p, pages.count - 1)).keys);
  }

  PageBlock<Kv> block_of(const Pages& pages, int index) const {
    return page_block<Kv>(model_, pages.layer, pages.numbers[index], pages.kv_head);
  }

  void add_tile(int start, int num_keys) {
    const int first_page = start / kPage;
    const int pages = (num_keys + kPage - 1) / kPage;
    for (int p = 0; p < kTilePages; ++p)
      blocks_[p] = block_of(place_.pages, first_page + std::min(p, pages - 1));
    soon_bytes_ = block_bytes<Kv>(dim_) / ((num_keys + kPanel - 1) / kPanel);
    for (int key = 0; key < num_keys; key += kPanel) score_step(key);
    for (int i = 0; i < count_; ++i) soften(i, start, num_keys);
    for (int from = 0; from < dim_;) {
      const int vectors = (dim_ - from) / kLanes >= 4 ? 4 : (dim_ - from) / kLanes >= 2 ? 2 : 1;
      average(from, vectors, num_keys);
      from += vectors * kLanes;
    }
  }

  // Scores of all queries with kPanel keys.
  void score_step(int key) {
    const typename Kv::Value* keys[2];
    for (int j = 0; j < 2; ++j) {
      const int at = key + j * kLanes;
      keys[j] = blocks_[at / kPage].keys + at % kPage * (Kv::kPairs ? 2 : 1);
    }
    for (int i = 0, rows; i < count_; i += rows) {
      rows = query_rows(i);
      switch (rows) {
        case 1: score<1>(i, key, keys); break;
        case 2: score<2>(i, key, keys); break;
        case 3: score<3>(i, key, keys); break;
        case 4: score<4>(i, key, keys); break;
        case 5: score<5>(i, key, keys); break;
        case 6: score<6>(i, key, keys); break;
        case 7: score<kMaxTile == 12 ? 7 : 6>(i, key, keys); break;
        case 8: score<kMaxTile == 12 ? 8 : 6>(i, key, keys); break;
        default: score<kMaxTile>(i, key, keys);
      }
    }
  }

  template <int kRows>
  void score(int first_query, int key, const typename Kv::Value* const (&keys)[2]) {
    vf acc[kRows][2];
    for (auto& of_row : acc) of_row[0] = of_row[1] = zero();
    const float* q = queries_ + first_query * dim_;
    const int64_t bytes = first_query == 0 ? soon_bytes_ / (Kv::kPairs ? dim_ / 2 : dim_) : 0;
    const char* soon[kTilePages];
    for (int p = 0; p < kTilePages; ++p) soon[p] = soon_[p] + key / kPanel * soon_bytes_;
    if constexpr (kDot2) {
      const Unit* units = reinterpret_cast<const Unit*>(q);
      for (int d = 0; d < dim_; d += 2, units += kRows) {
        fetch_some(soon, bytes);
        const vi k0 = load_i(keys[0] + d * kPage), k1 = load_i(keys[1] + d * kPage);
        for (int m = 0; m < kRows; ++m) {
          const vi value = set1_i(units[m]);
          acc[m][0] = dot2(acc[m][0], value, k0);
          acc[m][1] = dot2(acc[m][1], value, k1);
        }
      }
    } else if constexpr (Kv::kPairs) {
      for (int d = 0; d < dim_; d += 2, q += 2 * kRows) {
        fetch_some(soon, bytes);
        for (int j = 0; j < 2; ++j) {
          const vi pair = load_i(keys[j] + d * kPage);
          for (int m = 0; m < kRows; ++m) acc[m][j] = fma(set1(q[m]), low_half(pair), acc[m][j]);
          for (int m = 0; m < kRows; ++m) acc[m][j] = fma(set1(q[kRows + m]), high_half(pair), acc[m][j]);
        }
      }
    } else {
      for (int d = 0; d < dim_; ++d, q += kRows) {
        fetch_some(soon, bytes);
        const vf k0 = Kv::load_vector(keys[0] + d * kPage), k1 = Kv::load_vector(keys[1] + d * kPage);
        for (int m = 0; m < kRows; ++m) {
          const vf value = set1(q[m]);
          acc[m][0] = fma(value, k0, acc[m][0]);
          acc[m][1] = fma(value, k1, acc[m][1]);
        }
      }
    }
    for (int m = 0; m < kRows; ++m)
      for (int j = 0; j < 2; ++j) store(scores_ + (first_query + m) * kKeyTile + key + j * kLanes, acc[m][j]);
  }

  // Asks for some more of what comes next, bit by bit, so that the computation never waits for the asking.
  SAGE_INLINE static void fetch_some(const char* (&soon)[kTilePages], int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64)
      for (const char* at : soon) _mm_prefetch(at + i, _MM_HINT_T0);
    for (const char*& at : soon) at += bytes;
  }

  // Turns one query's scores of a tile into weights.
  void soften(int i, int start, int num_keys) {
    float* scores = scores_ + i * kKeyTile;
    const int position = place_.first_position + i / group_;
    const int high = std::min(num_keys, position + 1 - start);
    const int low = place_.window ? std::max(0, position + 1 - place_.window - start) : 0;
    const int filled = (num_keys + kLanes - 1) / kLanes * kLanes;
    if (high <= low) {
      std::fill(scores, scores + filled, 0.0f);
      return;
    }
    if (!Kv::kScaled && place_.cap == 0 && low == 0 && high == kKeyTile) return weigh(i, kKeyTile);
    for (int v = 0; v < filled; v += kLanes)
      store(scores + v, visible(adjusted(load(scores + v), v), low - v, high - v));
    weigh(i, filled);
  }

  SAGE_INLINE void weigh(int i, int filled) {
    float* scores = scores_ + i * kKeyTile;
    vf best = load(scores);
    for (int v = kLanes; v < filled; v += kLanes) best = max(best, load(scores + v));
    raise(i, max_lanes(best));
    vf total = load(sums_[i]);
    for (int v = 0; v < filled; v += kLanes) {
      vf weight = exp2_down(sub(load(scores + v), set1(maximum_[i])));
      total = add(total, weight);
      if constexpr (Kv::kScaled) weight = mul(weight, load(blocks_[v / kPage].value_scales + v % kPage));
      if constexpr (kDot2)
        store_bf16(reinterpret_cast<uint16_t*>(scores) + v, weight);  // behind what is read
      else
        store(scores + v, weight);
    }
    store(sums_[i], total);
  }

  // Adjusts what a query has gathered to a new maximum.
  void raise(int i, float maximum) {
    if (maximum <= maximum_[i]) return;
    const vf shrink = exp2_down(set1(maximum_[i] - maximum));
    maximum_[i] = maximum;
    store(sums_[i], mul(load(sums_[i]), shrink));
    for (int d = 0; d < dim_; d += kLanes) store(out_ + i * dim_ + d, mul(load(out_ + i * dim_ + d), shrink));
  }

  vf adjusted(vf score, int v) const {
    if constexpr (Kv::kScaled) score = mul(score, load(blocks_[v / kPage].key_scales + v % kPage));
    if (place_.cap > 0) {  // cap · tanh(score / cap)
      const vf twice = exp(mul(score, set1(2.0f / place_.cap)));
      score = mul(set1(place_.cap * kLog2e), sub(set1(1.0f), div(set1(2.0f), add(twice, set1(1.0f)))));
    }
    return score;
  }

  static vf visible(vf score, int low, int high) {
    const vf nothing = set1(-kInfinity);
    if (high < kLanes) score = high <= 0 ? nothing : first(high, score, nothing);
    if (low > 0) score = low >= kLanes ? nothing : first(low, nothing, score);
    return score;
  }

  void average(int from, int vectors, int num_keys) {
    const int tiles = (count_ + kMaxTile / 2 - 1) / (kMaxTile / 2), most = (count_ + tiles - 1) / tiles;
    for (int i = 0; i < count_;) {
      const int rows = std::min(most, count_ - i);
      switch (vectors) {
        case 4: average_rows<4>(rows, i, from, num_keys); break;
        case 2: average_rows<2>(rows, i, from, num_keys); break;
        default: average_rows<1>(rows, i, from, num_keys);
      }
      i += rows;
    }
  }

  template <int kVectors>
  void average_rows(int rows, int i, int from, int num_keys) {
    switch (rows) {
      case 1: return average_tile<1, kVectors>(i, from, num_keys);
      case 2: return average_tile<2, kVectors>(i, from, num_keys);
      case 3: return average_tile<3, kVectors>(i, from, num_keys);
      case 4: return average_tile<kMaxTile == 12 ? 4 : 3, kVectors>(i, from, num_keys);
      case 5: return average_tile<kMaxTile == 12 ? 5 : 3, kVectors>(i, from, num_keys);
      default: return average_tile<kMaxTile / 2, kVectors>(i, from, num_keys);
    }
  }

  // Adds weights times values to kRows queries' results, kVectors vectors from a dimension on.
  template <int kRows, int kVectors>
  void average_tile(int first_query, int from, int num_keys) {
    vf acc[kRows][kVectors];
    for (int m = 0; m < kRows; ++m)
      for (int j = 0; j < kVectors; ++j) acc[m][j] = load(out_ + (first_query + m) * dim_ + from + j * kLanes);
    const float* weights = scores_ + first_query * kKeyTile;
    if constexpr (Kv::kPairs) {
      for (int key = 0; key < num_keys; key += 2) {
        const auto* values = blocks_[key / kPage].values + (key % kPage) * dim_ + from * 2;
        vi pair[kVectors];
        for (int j = 0; j < kVectors; ++j) pair[j] = load_i(values + j * kLanes * 2);
        if (key + 1 == num_keys)  // what lies behind the last value may be anything
          for (int j = 0; j < kVectors; ++j) pair[j] = and_i(pair[j], set1_i(0xffff));
        add_pair<kRows, kVectors>(weights, key, pair, acc);
      }
    } else {
      for (int key = 0; key < num_keys; ++key) {
        const typename Kv::Value* values = blocks_[key / kPage].values + (key % kPage) * dim_ + from;
        vf value[kVectors];
        for (int j = 0; j < kVectors; ++j) value[j] = Kv::load_vector(values + j * kLanes);
        for (int m = 0; m < kRows; ++m) {
          const vf weight = set1(weights[m * kKeyTile + key]);
          for (int j = 0; j < kVectors; ++j) acc[m][j] = fma(weight, value[j], acc[m][j]);
        }
      }
    }
    for (int m = 0; m < kRows; ++m)
      for (int j = 0; j < kVectors; ++j) store(out_ + (first_query + m) * dim_ + from + j * kLanes, acc[m][j]);
  }

  template <int kRows, int kVectors>
  static void add_pair(const float* weights, int key, const vi (&pair)[kVectors], vf (&acc)[kRows][kVectors]) {
    for (int m = 0; m < kRows; ++m) {
      if constexpr (kDot2) {
        const vi both = set1_i(reinterpret_cast<const Unit*>(weights + m * kKeyTile)[key / 2]);
        for (int j = 0; j < kVectors; ++j) acc[m][j] = dot2(acc[m][j], both, pair[j]);
      } else {
        const vf even = set1(weights[m * kKeyTile + key]), odd = set1(weights[m * kKeyTile + key + 1]);
        for (int j = 0; j < kVectors; ++j)
          acc[m][j] = fma(odd, high_half(pair[j]), fma(even, low_half(pair[j]), acc[m][j]));
      }
    }
  }

  const SageModel& model_;
  const AttentionPlace& place_;
  const int group_, count_, dim_;
  float maximum_[kMaxQueries];
  PageBlock<Kv> blocks_[kTilePages];
  const char* soon_[kTilePages];  // blocks that come next
  int64_t soon_bytes_;            // to ask for of each in a step of scores
  alignas(64) float sums_[kMaxQueries][kLanes];  // of weights, lane by lane
  alignas(64) float queries_[kMaxQueries * kMaxHeadDim];
  alignas(64) float scores_[kMaxQueries * kKeyTile];
  alignas(64) float out_[kMaxQueries * kMaxHeadDim];
};

// Rows of a sequence that one piece of work takes.
inline int rows_at_once(const SageModel& model) {
  return std::max(1, kMaxQueries / (model.num_heads / model.num_kv_heads));
}

}  // namespace SAGE_ISA
