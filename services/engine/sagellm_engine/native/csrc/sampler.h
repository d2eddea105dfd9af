// From logits to tokens: penalties, bias and masks, then min-p, top-k and top-p as a threshold, then the Gumbel-max
// trick over what survives. Nothing is sorted: a limit is found by halving the range of weights, each time with one
// pass over the vocabulary.
//
// Scores are logits / temperature, weights e^(score - best score). Noise is a pure function of (seed, position,
// stream, token): Philox with key = seed and counter = (position, stream, token / 4, 0), whose word token % 4 it uses.
#pragma once

#include <atomic>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "matmul.h"
#include "philox.h"
#include "pool.h"

namespace SAGE_ISA {

constexpr float kGreedyBelow = 1e-5f;
constexpr float kNoiseRange = 19.448f;  // no noise is larger than another by more
constexpr int kSparse = 8;              // noise token by token pays below one survivor in so many

class RowSampler {
 public:
  RowSampler(const SageSampling& options, float* logits, int vocab, std::vector<float>& weights)
      : options_(options), logits_(logits), vocab_(vocab), weights_(weights) {}

  void run(SageSampled& out) {
    out.token = -1;
    out.num_top = 0;
    float best = largest_logit();
    if (!std::isfinite(best)) return;
    if (options_.num_logprobs >= 0) note_logprobs(best, out);
    adjust();
    if (!changed_.empty()) best = largest_logit();
    if (!std::isfinite(best)) return;
    out.token = options_.temperature < kGreedyBelow ? first_with(best) : draw(best);
    if (options_.num_logprobs >= 0) out.logprob = before(out.token) - log_sum_;
  }

 private:
  // The largest logit; infinity where one is not a number.
  float largest_logit() const {
    constexpr float kNone = -std::numeric_limits<float>::infinity();
    vf most[2] = {set1(kNone), set1(kNone)};
    float best = kNone;
    int i = 0, numbers = 0;
    for (; i + 2 * kLanes <= vocab_; i += 2 * kLanes)
      for (int j = 0; j < 2; ++j) {
        const vf x = load(logits_ + i + j * kLanes);
        numbers += count_at_least(x, set1(kNone));
        most[j] = max(most[j], x);
      }
    for (; i < vocab_; ++i) {
      numbers += logits_[i] >= kNone;
      best = logits_[i] > best ? logits_[i] : best;
    }
    best = std::max(best, max_lanes(max(most[0], most[1])));
    return numbers == vocab_ ? best : -kNone;
  }

  int first_with(float best) const {
    int id = 0;
    while (id + kLanes <= vocab_ && count_at_least(load(logits_ + id), set1(best)) == 0) id += kLanes;
    while (logits_[id] != best) ++id;
    return id;
  }

  // Changes a logit, and remembers what it was.
  void change(int id, float value) {
    changed_.emplace_back(id, logits_[id]);
    logits_[id] = value;
  }

  float before(int id) const {
    for (const auto& [changed, value] : changed_)
      if (changed == id) return value;
    return logits_[id];
  }

  void adjust() {
    if (options_.tokens != nullptr) penalise();
    for (int i = 0; i < options_.num_bias; ++i)
      change(options_.bias_ids[i], logits_[options_.bias_ids[i]] + options_.bias[i]);
    if (options_.allowed != nullptr)
      for (int id = 0; id < vocab_; ++id)
        if (!(options_.allowed[id / 32] >> (id % 32) & 1)) change(id, -std::numeric_limits<float>::infinity());
  }

  // Repetition penalty of Keskar et al. (2019) over all tokens, presence and frequency penalties over the output.
  void penalise() {
    static thread_local std::vector<std::pair<int32_t, int32_t>> counts;  // of a token: in all, in the output
    if (static_cast<int>(counts.size()) < vocab_) counts.assign(vocab_, {0, 0});
    for (int i = 0; i < options_.num_tokens; ++i) {
      auto& count = counts[options_.tokens[i]];
      ++count.first;
      if (i >= options_.num_prompt) ++count.second;
    }
    for (int i = 0; i < options_.num_tokens; ++i) {
      const int id = options_.tokens[i];
      const auto [in_all, in_output] = counts[id];
      if (in_all == 0) continue;  // done before
      float value = logits_[id];
      if (options_.repetition != 1.0f) value = value > 0 ? value / options_.repetition : value * options_.repetition;
      if (in_output > 0) value += -options_.presence - options_.frequency * static_cast<float>(in_output);
      change(id, value);
      counts[id] = {0, 0};
    }
  }

  void note_logprobs(float best, SageSampled& out) {
    fill_weights(1.0f, best);
    log_sum_ = best + std::log(sum_at_least(0.0f));
    const int wanted = std::min(std::min(options_.num_logprobs, vocab_), kSageMaxLogprobs);
    for (int id = 0; id < vocab_ && wanted > 0; ++id) {
      const float value = logits_[id] - log_sum_;
      if (out.num_top == wanted && !(value > out.top_logprobs[wanted - 1])) continue;
      int place = out.num_top < wanted ? out.num_top++ : wanted - 1;
      for (; place > 0 && value > out.top_logprobs[place - 1]; --place) {
        out.top_logprobs[place] = out.top_logprobs[place - 1];
        out.top[place] = out.top[place - 1];
      }
      out.top_logprobs[place] = value;
      out.top[place] = id;
    }
  }

  // weights_[i] = e^((logit - best) / temperature), zero behind the vocabulary.
  void fill_weights(float temperature, float best) {
    weights_.resize(round_up(vocab_, 2 * kLanes) + 2 * kLanes);
    const vf inverse = set1(1.0f / temperature), most = set1(best);
    int i = 0;
    for (; i + kLanes <= vocab_; i += kLanes) store(&weights_[i], exp(mul(sub(load(logits_ + i), most), inverse)));
    float rest[kLanes];
    for (int j = 0; j < kLanes; ++j)
      rest[j] = i + j < vocab_ ? logits_[i + j] : -std::numeric_limits<float>::infinity();
    store(&weights_[i], exp(mul(sub(load(rest), most), inverse)));
    store(&weights_[i + kLanes], zero());
  }

  float sum_at_least(float bound) const {
    vf total = zero(), more = zero();
    const vf least = set1(bound);
    for (int i = 0; i < vocab_; i += 2 * kLanes) {
      total = add(total, at_least(load(&weights_[i]), least));
      more = add(more, at_least(load(&weights_[i + kLanes]), least));
    }
    return sum_lanes(add(total, more));
  }

  int count(float bound) const {
    int found = 0;
    const vf least = set1(bound);
    for (int i = 0; i < vocab_; i += kLanes) found += count_at_least(load(&weights_[i]), least);
    return found;
  }

  // The largest weight from low on for which enough(weight) holds, which holds for all below: by halving the range of
  // the bits, whose order is that of the numbers.
  template <class Enough>
  static float largest(float low, Enough enough) {
    uint32_t from, to;
    const float one = 1.0f;
    __builtin_memcpy(&from, &low, 4);
    __builtin_memcpy(&to, &one, 4);
    while (from < to) {
      const uint32_t middle = from + (to - from + 1) / 2;
      float weight;
      __builtin_memcpy(&weight, &middle, 4);
      if (enough(weight)) from = middle;
      else to = middle - 1;
    }
    float found;
    __builtin_memcpy(&found, &from, 4);
    return found;
  }

  // The least weight that survives the limits.
  float threshold() const {
    float least = std::max(options_.min_p, std::numeric_limits<float>::min());
    if (options_.top_k > 0 && options_.top_k < vocab_)
      least = largest(least, [&](float weight) { return count(weight) >= options_.top_k; });
    if (options_.top_p < 1.0f) {
      const float wanted = options_.top_p * sum_at_least(least);
      least = largest(least, [&](float weight) { return sum_at_least(weight) >= wanted; });
    }
    return std::max(least, std::exp(-kNoiseRange));
  }

  int draw(float best) {
    fill_weights(options_.temperature, best);
    const float least = threshold();
    const int survivors = count(least);
    return static_cast<int64_t>(survivors) * kSparse < vocab_ ? draw_sparse(least, best) : draw_dense(least, best);
  }

  // Gumbel noise of tokens whose Philox words are these.
  static vf gumbel(vi words) {
    const vf u = mul(add(to_float(shift_right<9>(words)), set1(0.5f)), set1(1.0f / (1 << 23)));
    return sub(zero(), log(sub(zero(), log(u))));
  }

  // The score by which tokens are compared, the same in both ways of drawing.
  vf noisy(vf logits, vf best, vi words) const {
    return add(mul(sub(logits, best), set1(1.0f / options_.temperature)), gumbel(words));
  }

  void words_of(uint32_t block, uint32_t (&words)[4]) const {
    words[0] = options_.position, words[1] = options_.stream, words[2] = block, words[3] = 0;
    sage::philox(words, static_cast<uint32_t>(options_.seed), static_cast<uint32_t>(options_.seed >> 32));
  }

  int draw_sparse(float least, float best) const {
    float most = -std::numeric_limits<float>::infinity();
    int winner = 0;
    for (int id = 0; id < vocab_; ++id) {
      if (!(weights_[id] >= least)) continue;
      uint32_t words[4];
      words_of(id / 4, words);
      const vf value = noisy(set1(logits_[id]), set1(best), set1_i(static_cast<int32_t>(words[id % 4])));
      float lanes[kLanes];
      store(lanes, value);
      if (lanes[0] > most) most = lanes[0], winner = id;
    }
    return winner;
  }

  int draw_dense(float least, float best) const {
    float most = -std::numeric_limits<float>::infinity();
    int winner = 0;
    for (int first_id = 0; first_id < vocab_; first_id += kLanes) {
      if (count_at_least(load(&weights_[first_id]), set1(least)) == 0) continue;
      alignas(64) uint32_t words[kLanes];
      for (int block = 0; block < kLanes / 4; ++block) {
        uint32_t four[4];
        words_of(first_id / 4 + block, four);
        for (int i = 0; i < 4; ++i) words[block * 4 + i] = four[i];
      }
      float values[kLanes], logits[kLanes];
      const int here = std::min(kLanes, vocab_ - first_id);
      for (int i = 0; i < kLanes; ++i) logits[i] = i < here ? logits_[first_id + i] : best;
      store(values, noisy(load(logits), set1(best), load_i(words)));
      for (int i = 0; i < here; ++i)
        if (weights_[first_id + i] >= least && values[i] > most) most = values[i], winner = first_id + i;
    }
    return winner;
  }

  const SageSampling& options_;
  float* logits_;
  const int vocab_;
  std::vector<float>& weights_;
  float log_sum_ = 0;
  std::vector<std::pair<int32_t, float>> changed_;
};

struct SampleCall {
  const SageSampling* rows;
  int32_t num_rows;
  float* logits;
  int32_t vocab;
  SageSampled* out;
  std::atomic<int> next{0};

  void work() {
    static thread_local std::vector<float> weights;
    for (int row; (row = next.fetch_add(1)) < num_rows;)
      RowSampler(rows[row], logits + static_cast<int64_t>(row) * vocab, vocab, weights).run(out[row]);
  }
};

static void sample(const SageSampling* rows, int32_t num_rows, float* logits, int32_t vocab, SageSampled* out) {
  SampleCall call{rows, num_rows, logits, vocab, out};
  if (num_rows == 1) return call.work();  // sooner done than another thread is awake
  sage::Pool::instance().run([](void* self, int) { static_cast<SampleCall*>(self)->work(); }, &call);
}

}  // namespace SAGE_ISA
