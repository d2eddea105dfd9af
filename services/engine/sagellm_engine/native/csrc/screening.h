// Which token has the largest logit, without computing all logits.
//
// A copy of the output layer in INT8 tells every logit to within a bound: x·w - x̂·ŵ = x·(w - ŵ) + (x - x̂)·ŵ is at
// most |x| |w - ŵ| + |x - x̂| |ŵ| (Cauchy and Schwarz). A panel none of whose logits may reach the largest lower bound
// is passed over; those of the others are computed as ever. So the token is the one that all logits would have given,
// whatever the copy is worth; of equal ones, the first.
#pragma once

#include <cfloat>
#include <cmath>
#include <limits>

#include "arena.h"
#include "rows.h"

namespace SAGE_ISA {

constexpr int kSearchedPanels = 256;           // of one piece of the search
constexpr float kRounding = 1.0f / (1 << 22);  // of one input, on both ways of computing a logit; ample

// |x|, and |x - x̂| with what may be lost by rounding.
struct Reach {
  float length, miss;
};

// The largest logit of some panels, and its token: -1 if there is none above -infinity.
struct Likeliest {
  float logit = -std::numeric_limits<float>::infinity();
  int32_t token = -1;
  bool is_number = true;  // and so are all others that were computed
};

class Screening {
 public:
  Screening(const SageModel& model, int num_rows, int places, int threads, Arena& arena)
      : screen_(model.screen), head_(model.lm_head), compute_(model.compute), vocab_(model.vocab), threads_(threads),
        num_rows_(num_rows), stride_(round_up(num_panels(head_), kLanes)),
        chunks_((num_panels(head_) + kSearchedPanels - 1) / kSearchedPanels) {
    if (screen_.weight.weight == nullptr) return;
    exact_ = arena.take<char>(places * row_bytes(head_, compute_));
    reach_ = arena.take<Reach>(places);
    least_ = arena.take<float>(static_cast<int64_t>(threads) * num_rows * kLanes);
    most_ = arena.take<float>(num_rows * stride_);
    found_ = arena.take<Likeliest>(static_cast<int64_t>(num_rows) * chunks_);
  }

  int pieces(int rows) const { return rows * chunks_; }

  // Before a thread notes anything.
  void begin(int thread) const {
    std::fill_n(least(thread, 0), int64_t{num_rows_} * kLanes, -FLT_MAX);
    if (thread > 0) return;
    for (int row = 0; row < num_rows_; ++row)
      std::fill(most_ + row * stride_ + num_panels(head_), most_ + (row + 1) * stride_, -FLT_MAX);
  }

  // Takes a row: as the product takes it, and into the copy's form; x [hidden] is used up.
  void put(int place, int row, float* x, const RowWriter& coarse) const {
    char* exact = exact_ + place * row_bytes(head_, compute_);
    RowWriter{head_, compute_, 1, exact, nullptr, nullptr, nullptr}.put(0, x);
    if (row_bytes(head_, compute_) == 2 * padded_in(head_))
      for (int i = 0; i < head_.num_in; ++i) x[i] = from_bf16(reinterpret_cast<const uint16_t*>(exact)[i]);
    coarse.put(row, x);
    reach_[place] = reach_of(x, head_.num_in, coarse.scales[row]);
  }

  // Takes what the copy says of a row's logits in a panel.
  void note(int thread, int place, int row, int panel, const float* sums) const {
    const vf length = set1(reach_[place].length), miss = set1(reach_[place].miss);
    float* const least_at = least(thread, row);
    vf low = load(least_at), high = set1(-FLT_MAX);
    for (int j = 0; j < kPanel; j += kLanes) {
      const int column = panel * kPanel + j;
      const vf bound = fma(length, load(screen_.misses + column), mul(miss, load(screen_.lengths + column)));
      low = max(low, sub(load(sums + j), bound));
      high = max(high, add(load(sums + j), bound));
    }
    store(least_at, low);
    most_[row * stride_ + panel] = max_lanes(high);
  }

  // Computes the panels of a piece that may hold a row's largest logit; `first_place` is where the rows were put.
  void search(int piece, int rows, int first_place) const {
    const int row = piece % rows, first = piece / rows * kSearchedPanels;
    const int end = std::min<int>(stride_, first + kSearchedPanels);
    const float* most = most_ + row * stride_;
    const int64_t bytes = row_bytes(head_, compute_);
    const Rows x{exact_ + (first_place + row) * bytes, bytes, nullptr, nullptr};
    const Multiplication exact(head_, x, compute_, 1);
    vf low = load(least(0, row));
    for (int thread = 1; thread < threads_; ++thread) low = max(low, load(least(thread, row)));
    const float bar = max_lanes(low);
    Likeliest best;
    for (int lane = first; lane < end; lane += kLanes) {
      if (count_at_least(load(most + lane), set1(bar)) == 0) continue;
      for (int panel = lane; panel < std::min(lane + kLanes, num_panels(head_)); ++panel) {
        if (most[panel] < bar) continue;
        const Block block{0, 1, panel, panel + 1};
        exact.run(block, block, [&](int, int, int, const float* sums) { compare(panel, sums, best); });
      }
    }
    found_[row * chunks_ + piece / rows] = best;
  }

  // The token of a row when all pieces have been searched; -1 if a logit is not a number or none is finite.
  int32_t token(int row) const {
    Likeliest best;
    for (int i = 0; i < chunks_; ++i) {
      const Likeliest& one = found_[row * chunks_ + i];
      best.is_number &= one.is_number;
      if (one.logit > best.logit) best.logit = one.logit, best.token = one.token;
    }
    return best.is_number && std::isfinite(best.logit) ? best.token : -1;
  }

 private:
  float* least(int thread, int row) const { return least_ + (int64_t{thread} * num_rows_ + row) * kLanes; }

  // Of a row whose length is out of the ordinary, nothing is relied on: its scale becomes 0, its bounds without end.
  Reach reach_of(const float* x, int n, float& scale) const {
    const vf inverse = set1(to_127(largest_magnitude(x, n)));
    vf length = zero(), miss = zero();
    for (int i = 0; i < n; i += kLanes) {
      const vf value = load(x + i), error = sub(value, mul(to_float(to_int(mul(value, inverse))), set1(scale)));
      length = fma(value, value, length);
      miss = fma(error, error, miss);
    }
    const float most = 1.001f * std::sqrt(sum_lanes(length));
    const float rounding = most * static_cast<float>(n + 64) * kRounding;
    if (most > kLeastLength && most < kMostLength) return {most, 1.001f * std::sqrt(sum_lanes(miss)) + rounding};
    scale = 0.0f;
    return {FLT_MAX, FLT_MAX};
  }

  void compare(int panel, const float* logits, Likeliest& best) const {
    const int columns = std::min(kPanel, vocab_ - panel * kPanel);
    for (int j = 0; j < columns; ++j) {
      if (logits[j] > best.logit) best.logit = logits[j], best.token = panel * kPanel + j;
      best.is_number &= logits[j] == logits[j];
    }
  }

  const SageScreen& screen_;
  const SageLinear& head_;
  const int compute_, vocab_, threads_, num_rows_;
  const int64_t stride_;
  const int chunks_;
  char* exact_ = nullptr;       // each row as a tile of its own
  Reach* reach_ = nullptr;
  float* least_ = nullptr;      // [threads][rows][kLanes]: the largest lower bounds
  float* most_ = nullptr;       // [rows][panels]: the largest upper bound
  Likeliest* found_ = nullptr;  // [rows][chunks]
};

}  // namespace SAGE_ISA
