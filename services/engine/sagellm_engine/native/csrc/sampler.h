// From logits to tokens: penalties, bias and masks, then min-p, top-k and top-p as a threshold, then the Gumbel-max
// trick over what survives. Nothing is sorted: a limit is found by halving the range of weights, each time with one
// pass over the vocabulary.
//
// Scores are logits / temperature, weights e^(score - best score).
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "matmul.h"
#include "noise.h"
#include "pool.h"

namespace SAGE_ISA {

constexpr float kGreedyBelow = 1e-5f;
constexpr int kColumn = 16;                    // weights of which one maximum is taken
constexpr float kLeastGap = 1.0f / (1 << 24);  // 1 - u is at least
constexpr float kSafety = 0.9999f;             // covers the rounding of weights and scores

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
    if (!changed_.empty() || options_.allowed != nullptr) best = largest_logit();
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
    if (options_.allowed != nullptr) mask();
  }

  // A token that is not allowed is never drawn: nobody asks what its logit was.
  void mask() {
    for (int first_id = 0; first_id < vocab_; first_id += 32) {
      const uint32_t allowed = options_.allowed[first_id / 32];
      if (allowed == 0xffffffffu) continue;
      for (int id = first_id; id < std::min(first_id + 32, vocab_); ++id)
        if (!(allowed >> (id - first_id) & 1)) logits_[id] = -std::numeric_limits<float>::infinity();
    }
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

  // weights_[i] = e^((logit - best) / temperature), zero behind the vocabulary up to whole blocks of columns.
  void fill_weights(float temperature, float best) {
    weights_.resize(round_up(vocab_, kColumn * kLanes));
    const vf inverse = set1(1.0f / temperature), most = set1(best);
    const int whole = vocab_ / kLanes * kLanes;
    for (int i = 0; i < whole; i += kLanes)
      store(&weights_[i], exp(mul(sub(load(logits_ + i), most), inverse)));
    float rest[kLanes];
    std::copy(logits_ + whole, logits_ + vocab_, rest);
    std::fill(rest + vocab_ - whole, rest + kLanes, -std::numeric_limits<float>::infinity());
    std::fill(weights_.begin() + whole, weights_.end(), 0.0f);
    if (whole < vocab_) store(&weights_[whole], exp(mul(sub(load(rest), most), inverse)));
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

  // How many of the values, whose number is a multiple of kLanes, are at least so large.
  static int count(const std::vector<float>& values, float bound) {
    int found = 0;
    const vf least = set1(bound);
    for (size_t i = 0; i < values.size(); i += kLanes) found += count_at_least(load(&values[i]), least);
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

  // The least weight that survives min-p and top-k.
  float threshold() const {
    const float least = std::max(options_.min_p, std::numeric_limits<float>::min());
    const int k = options_.top_k;
    if (k <= 0 || k >= vocab_) return least;
    return largest(least, [k, &values = candidates(k)](float weight) { return count(values, weight) >= k; });
  }

  // Weights of which the k largest are the k largest of all, zeros among them. The maxima of k columns of a block are k
  // weights, so whatever is below the k-th largest maximum is not wanted.
  const std::vector<float>& candidates(int k) const {
    static thread_local std::vector<float> maxima, found;
    const int block = kColumn * kLanes, num_blocks = static_cast<int>(weights_.size()) / block;
    if (k > num_blocks * kLanes) return weights_;
    maxima.resize(num_blocks * kLanes);
    for (int b = 0; b < num_blocks; ++b) {
      vf most = zero();
      for (int i = 0; i < block; i += kLanes) most = max(most, load(&weights_[b * block + i]));
      store(&maxima[b * kLanes], most);
    }
    const float bound = largest(0.0f, [&](float weight) { return count(maxima, weight) >= k; });
    found.clear();
    for (int b = 0; b < num_blocks; ++b)
      if (count_at_least(load(&maxima[b * kLanes]), set1(bound)) > 0)
        for (int i = b * block; i < (b + 1) * block; i += kLanes)
          if (count_at_least(load(&weights_[i]), set1(bound)) > 0)
            found.insert(found.end(), &weights_[i], &weights_[i + kLanes]);
    return found;
  }

  // Of the tokens that survive, the one with the largest noisy score. Whether a token survives top-p, which asks for
  // the sum of the weights above its own, is asked of winners only: one who does not takes all below along.
  int draw(float best) {
    fill_weights(options_.temperature, best);
    float least = threshold();
    if (options_.top_p >= 1.0f) return winner(least, best);
    const float wanted = std::max(options_.top_p * sum_at_least(least), std::numeric_limits<float>::min());
    for (;;) {
      const int id = winner(least, best);
      least = std::nextafter(weights_[id], 2.0f);
      if (sum_at_least(least) < wanted) return id;
    }
  }

  // The largest noisy score among the weights from `least` on. With noise -log(-log u), a token can only win where
  // weight / -log u is above e^score of the one that leads; as -log u >= 1 - u, most are out without a logarithm.
  int winner(float least, float best) const {
    const Noise noise(options_);
    least = std::max(least, std::exp(-kNoiseRange));
    float most = -std::numeric_limits<float>::infinity(), bound = 0;
    int leader = 0;
    for (int id = 0; id < vocab_; id += kNoiseTokens) {
      const vf weights[2] = {load(&weights_[id]), load(&weights_[id + kLanes])};
      if (count_at_least(max(weights[0], weights[1]), set1(std::max(least, bound * kLeastGap))) == 0) continue;
      vf u[2];
      noise.uniforms(id, u);
      for (int j = 0; j < 2; ++j) {
        const vf needed = max(set1(least), mul(set1(bound), sub(set1(1.0f), u[j])));
        if (count_at_least(weights[j], needed) == 0) continue;
        lead(id + j * kLanes, u[j], least, best, most, leader);
        bound = std::exp(most) * kSafety;
      }
    }
    return leader;
  }

  // Lets the noisy scores of the tokens from first_id on compete with the leader's.
  void lead(int first_id, vf u, float least, float best, float& most, int& leader) const {
    float values[kLanes], logits[kLanes];
    const int here = std::min(kLanes, vocab_ - first_id);
    for (int i = 0; i < kLanes; ++i) logits[i] = i < here ? logits_[first_id + i] : best;
    const vf scores = mul(sub(load(logits), set1(best)), set1(1.0f / options_.temperature));
    store(values, add(scores, Noise::gumbel(u)));
    for (int i = 0; i < here; ++i)
      if (weights_[first_id + i] >= least && values[i] > most) most = values[i], leader = first_id + i;
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
