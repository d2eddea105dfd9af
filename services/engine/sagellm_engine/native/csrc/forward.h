// One step of a decoder: every thread runs through the same phases, takes pieces of each as they come, and meets the
// others at the end of a phase.
#pragma once

#include <atomic>
#include <chrono>
#include <vector>

#include "attention.h"
#include "pool.h"
#include "rows.h"

namespace SAGE_ISA {

constexpr int kPhasesALayer = 10;  // at most
constexpr int kPhasesAround = 3;   // embedding, last norm, logits
constexpr int kFewRows = 4;
constexpr int kShareRows = 96;  // so many for each thread, and it keeps to its own: their data stay in its cache

// Divides scratch memory; every part begins on a cache line.
class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<char*>(base)) {}

  template <class T>
  T* take(int64_t count) {
    T* part = reinterpret_cast<T*>(base_ + used_);
    used_ += round_up(count * static_cast<int64_t>(sizeof(T)), 64);
    return part;
  }
  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

// The buffers of a step.
struct Scratch {
  Scratch(const SageModel& model, int rows, int outputs, void* base) : arena(base) {
    const SageLayer& layer = model.layers[0];
    const SageLinear* linears[] = {&layer.qkv, &layer.o, &layer.gate_up, &layer.down, &model.lm_head};
    int64_t widest = 0, most_bytes = 0;
    for (const SageLinear* w : linears) {
      widest = std::max<int64_t>(widest, padded_in(*w));
      most_bytes = std::max(most_bytes, row_bytes(*w, model.compute));
    }
    width = widest;
    threads = sage::Pool::instance().size();
    counters = arena.take<std::atomic<int32_t>>(num_counters(model) * kCounterStride);
    residual = arena.take<float>(rows * round_up(model.hidden, kGroup));
    const int64_t qkv_floats = rows * round_up(layer.qkv.num_out, kPanel);
    wide = arena.take<float>(std::max(qkv_floats + rows * padded_in(layer.o), rows * int64_t{padded_in(layer.down)}));
    qkv = wide;  // no longer needed when the feed-forward begins
    mixed = wide + qkv_floats;
    operand_bytes = round_up(kFewRows * most_bytes, 64);
    num_sums = kFewRows * (width / kGroup);
    const int64_t most = std::max<int64_t>(std::max(rows, outputs), threads * kFewRows);
    operand = arena.take<char>(std::max(most * most_bytes, threads * operand_bytes));
    scales = arena.take<float>(most);
    sums = arena.take<int32_t>(most * (width / kGroup));
    num_staged = kMaxTile * round_up(most_bytes, 64) / 4;
    stages = arena.take<Unit>(threads * num_staged);
    cosines = arena.take<float>(static_cast<int64_t>(rows) * model.head_dim / 2);
    sines = arena.take<float>(static_cast<int64_t>(rows) * model.head_dim / 2);
    sequence = arena.take<int32_t>(rows);
  }

  int64_t num_counters(const SageModel& model) const {
    return (model.num_layers * kPhasesALayer + kPhasesAround) * threads;
  }

  static constexpr int kCounterStride = 16;  // a cache line each
  Arena arena;
  int64_t threads;
  int64_t width;
  int64_t operand_bytes, num_sums;  // of one thread that makes its own rows
  std::atomic<int32_t>* counters;
  float* residual;
  float *qkv, *mixed;  // what enters attention, and what it gives
  float *wide;         // the activations of the feed-forward, in the same place
  char* operand;
  float* scales;
  int32_t* sums;
  int64_t num_staged;
  Unit* stages;  // of each thread
  float *cosines, *sines;
  int32_t* sequence;  // of each row
};

struct AttentionWork {
  int sequence, first_row, num_rows;
};

// One thread's way through a step.
struct Worker {
  int thread;
  int phase = 0;  // the next one's number
  std::chrono::steady_clock::time_point since = {};
};

template <class Kv>
class Step {
 public:
  Step(const SageModel& model, const SageStep& step, void* scratch)
      : model_(model), step_(step), pool_(sage::Pool::instance()),
        scratch_(model, step.num_rows, step.num_out, scratch),
        hidden_stride_(round_up(model.hidden, kGroup)), half_(model.head_dim / 2),
        decoding_(step.num_rows == step.num_seqs) {
    for (int64_t i = 0; i < scratch_.num_counters(model); ++i) scratch_.counters[i * Scratch::kCounterStride].store(0);
    divide_rows();
    plan_attention();
  }

  void run() {
    pool_.run([](void* self, int thread) { static_cast<Step*>(self)->work(Worker{thread}); }, this);
  }

 private:
  // Gives every thread its share of the rows, if there are enough; else all take from one.
  void divide_rows() {
    const int rows = step_.num_rows, tiles = (rows + kMaxTile - 1) / kMaxTile;
    const int count = rows >= kShareRows * pool_.size() ? pool_.size() : 1;
    for (int i = 0; i < count; ++i)
      shares_.push_back({tiles * i / count * kMaxTile, std::min(rows, tiles * (i + 1) / count * kMaxTile)});
    attention_.resize(count);
  }

  // Splits sequences into pieces of attention, in each share the most expensive first.
  void plan_attention() {
    const int at_once = rows_at_once(model_);
    size_t share = 0;
    for (int s = 0; s < step_.num_seqs; ++s)
      for (int row = step_.first_row[s]; row < step_.first_row[s + 1]; row += at_once) {
        const int rows = std::min(at_once, step_.first_row[s + 1] - row);
        while (row >= shares_[share].end) ++share;
        attention_[share].push_back({s, row, rows});
        for (int i = row; i < row + rows; ++i) scratch_.sequence[i] = s;
      }
    const auto cost = [this](const AttentionWork& w) { return (position(w.first_row) + 1) * w.num_rows; };
    for (auto& pieces : attention_)
      std::sort(pieces.begin(), pieces.end(), [&](const AttentionWork& a, const AttentionWork& b) {
        return cost(a) != cost(b) ? cost(a) > cost(b) : a.first_row < b.first_row;
      });
  }

  int position(int row) const {
    const int s = scratch_.sequence[row];
    return step_.context[s] + row - step_.first_row[s];
  }

  // Runs f(share, i, then) for i from 0 to count(share) - 1, divided among the threads, and waits for all of them. A
  // thread begins with its own share, and takes its next piece of work before it begins one, so that f can ask memory
  // for what `then` needs.
  template <class Count, class F>
  void phase(Worker& at, SagePhase kind, size_t shares, Count count, F f) {
    const size_t first_counter = at.phase++ * scratch_.threads;
    for (size_t k = 0; k < shares; ++k) {
      const size_t share = (at.thread + k) % shares;
      std::atomic<int32_t>& counter = scratch_.counters[(first_counter + share) * Scratch::kCounterStride];
      const auto take = [&counter] { return counter.fetch_add(1, std::memory_order_relaxed); };
      const int end = count(share);
      for (int i = take(), then; i < end; i = then) {
        then = take();
        f(share, i, std::min(then, end - 1));
      }
    }
    pool_.barrier();
    clock(at, kind);
  }

  // Runs f(first, end) for all rows, so many at once.
  template <class F>
  void phase_of_rows(Worker& at, SagePhase kind, const std::vector<Share>& shares, int at_once, F f) {
    phase(at, kind, shares.size(), [&](size_t share) { return (shares[share].rows() + at_once - 1) / at_once; },
          [&](size_t share, int i, int) {
            const int first = shares[share].first + i * at_once;
            f(first, std::min(shares[share].end, first + at_once));
          });
  }

  void clock(Worker& at, SagePhase kind) const {
    if (step_.seconds == nullptr || at.thread != 0) return;
    const auto now = std::chrono::steady_clock::now();
    step_.seconds[kind] += std::chrono::duration<double>(now - at.since).count();
    at.since = now;
  }

  // Runs f(row) for all rows of a product's input. Few rows every thread makes for itself, which is sooner done than
  // waiting for each other; many are divided by tiles, for the rows of a tile share cache lines.
  template <class F>
  void form_rows(Worker& at, SagePhase kind, const std::vector<Share>& shares, const RowWriter& to, F f) {
    if (to.stage == nullptr) {
      for (int row = 0; row < to.num_rows; ++row) f(row);
      return clock(at, kind);
    }
    phase_of_rows(at, kind, shares, kMaxTile, [&](int first, int end) {
      for (int row = first; row < end; ++row) f(row);
      to.finish(first, end);
    });
  }

  RowWriter writer(const Worker& at, const SageLinear& w, int rows) const {
    const bool few = rows <= kFewRows;
    const int own = few ? at.thread : 0;  // the part of scratch memory
    return {w, model_.compute, rows, scratch_.operand + own * scratch_.operand_bytes,
            scratch_.scales + own * kFewRows, scratch_.sums + own * scratch_.num_sums,
            few ? nullptr : scratch_.stages + at.thread * scratch_.num_staged};
  }

  template <class Finish>
  void product(Worker& at, SagePhase kind, const std::vector<Share>& shares, const SageLinear& w, Finish finish) {
    const int rows = shares.back().end;
    const Rows input = writer(at, w, rows).rows();
    const Multiplication multiplication(w, input, model_.compute, rows);
    const int parts = shares.size() == 1 ? pool_.size() : 1;  // of the columns, where rows are not shared out
    const auto divide = [&](size_t share) { return Division(w, shares[share / parts], share % parts, parts); };
    phase(at, kind, shares.size() * parts, [&](size_t share) { return divide(share).count; },
          [&](size_t share, int i, int then) {
            const Division division = divide(share);
            multiplication.run(division.block(i), division.block(then), finish);
          });
  }

  void work(Worker at) {
    at.since = std::chrono::steady_clock::now();
    phase_of_rows(at, SAGE_EMBED, shares_, 1, [this](int row, int) { embed(row); });
    for (int layer = 0; layer < model_.num_layers; ++layer) run_layer(at, layer);
    logits(at);
  }

  void embed(int row) {
    gather_row(model_.embedding, step_.tokens[row], scratch_.residual + row * hidden_stride_);
    rotation(position(row), model_.inv_freq, half_, scratch_.cosines + row * half_, scratch_.sines + row * half_);
  }

  void normalise(const RowWriter& writer, const float* gain, int from_row, int to_row) const {
    alignas(64) float normed[kMaxHidden];
    rms_norm(scratch_.residual + from_row * hidden_stride_, gain, model_.eps, model_.hidden, normed);
    writer.put(to_row, normed);
  }

  void run_layer(Worker& at, int index) {
    const SageLayer& layer = model_.layers[index];
    const int rows = step_.num_rows;
    const auto norm_into = [&](const SageLinear& w, const float* gain) {
      const RowWriter to = writer(at, w, rows);
      form_rows(at, SAGE_NORM, shares_, to, [&](int row) { normalise(to, gain, row, row); });
    };
    norm_into(layer.qkv, layer.input_norm);
    product(at, SAGE_QKV, shares_, layer.qkv, [&](int row, int panel, const float* sums) {
      store_panel(qkv(layer, row), layer.qkv, panel, sums);
    });
    attend(at, layer, index);
    add_to_residual(at, SAGE_O, layer.o, scratch_.mixed);
    norm_into(layer.gate_up, layer.post_norm);
    activate(at, layer);
    add_to_residual(at, SAGE_DOWN, layer.down, scratch_.wide);
  }

  static int64_t qkv_stride(const SageLayer& layer) { return round_up(layer.qkv.num_out, kPanel); }
  float* qkv(const SageLayer& layer, int row) const { return scratch_.qkv + row * qkv_stride(layer); }

  static void store_panel(float* out, const SageLinear& w, int panel, const float* sums) {
    for (int j = 0; j < kPanel; j += kLanes) {
      vf value = load(sums + j);
      if (w.bias != nullptr) value = add(value, load(w.bias + panel * kPanel + j));
      store(out + panel * kPanel + j, value);
    }
  }

  // Norms and rotates one head of a row in place.
  void turn(float* x, int row, const float* gain, float scale) const {
    if (gain != nullptr) rms_norm(x, gain, model_.eps, model_.head_dim, x);
    rotate(x, scratch_.cosines + row * half_, scratch_.sines + row * half_, half_, scale);
  }

  // Prepares a row for the attention of one kv head: its queries, scaled, and its key and value in their page.
  void place(const SageLayer& layer, int index, int row, int kv_head) const {
    const int dim = model_.head_dim, group = model_.num_heads / model_.num_kv_heads;
    float* heads = qkv(layer, row);
    for (int h = kv_head * group; h < (kv_head + 1) * group; ++h)
      turn(heads + h * dim, row, layer.q_norm, query_scale(model_));
    float* key = heads + (model_.num_heads + kv_head) * dim;
    turn(key, row, layer.k_norm, 1.0f);
    const int at = position(row), page = step_.pages[step_.first_page[scratch_.sequence[row]] + at / kPage];
    const auto block = page_block<Kv>(model_, index, page, kv_head);
    write_token<Kv>(block, at % kPage, key, key + model_.num_kv_heads * dim, dim);
  }

  void attend(Worker& at, const SageLayer& layer, int index) {
    const int kv_heads = model_.num_kv_heads;
    if (!decoding_)
      phase_of_rows(at, SAGE_ROTARY, shares_, kPage, [&](int first, int end) {  // a page's tokens share cache lines
        for (int head = 0; head < kv_heads; ++head)
          for (int row = first; row < end; ++row) place(layer, index, row, head);
      });
    const auto count = [&](size_t share) { return static_cast<int>(attention_[share].size()) * kv_heads; };
    phase(at, SAGE_ATTENTION, shares_.size(), count, [&](size_t share, int i, int then) {
      const AttentionWork &work = attention_[share][i / kv_heads], &next = attention_[share][then / kv_heads];
      if (decoding_) place(layer, index, work.first_row, i % kv_heads);
      attend(work, layer, index, i % kv_heads, pages_of(next, index, then % kv_heads));
    });
  }

  Pages pages_of(const AttentionWork& work, int layer, int kv_head) const {
    const int last = position(work.first_row) + work.num_rows - 1;
    return {step_.pages + step_.first_page[work.sequence], last / kPage + 1, layer, kv_head};
  }

  void attend(const AttentionWork& work, const SageLayer& layer, int index, int kv_head, const Pages& next) const {
    const int group = model_.num_heads / model_.num_kv_heads, dim = model_.head_dim, head = kv_head * group;
    const AttentionPlace place{pages_of(work, index, kv_head), position(work.first_row), work.num_rows,
                               qkv(layer, work.first_row) + head * dim, qkv_stride(layer),
                               layer.sinks ? layer.sinks + head : nullptr, layer.window, model_.score_cap};
    AttentionPiece<Kv>(model_, place).run(next, [&](int row, int in_group, const float* values) {
      float* out = scratch_.mixed + (work.first_row + row) * padded_in(layer.o) + (head + in_group) * dim;
      for (int d = 0; d < dim; d += kLanes) store(out + d, load(values + d));
    });
  }

  void activate(Worker& at, const SageLayer& layer) {
    const int64_t stride = padded_in(layer.down);
    product(at, SAGE_GATE_UP, shares_, layer.gate_up, [&](int row, int panel, const float* sums) {
      vf gate = load(sums), up = load(sums + kLanes);
      if (layer.gate_up.bias != nullptr) {
        gate = add(gate, load(layer.gate_up.bias + panel * kPanel));
        up = add(up, load(layer.gate_up.bias + panel * kPanel + kLanes));
      }
      store(scratch_.wide + row * stride + panel * kLanes, mul(silu(gate), up));
    });
  }

  // residual += x · wᵀ + bias
  void add_to_residual(Worker& at, SagePhase kind, const SageLinear& w, const float* x) {
    const RowWriter to = writer(at, w, step_.num_rows);
    form_rows(at, SAGE_FORM, shares_, to, [&](int row) { to.put(row, x + row * static_cast<int64_t>(padded_in(w))); });
    product(at, kind, shares_, w, [&](int row, int panel, const float* sums) {
      float* out = scratch_.residual + row * hidden_stride_;
      for (int j = 0; j < kPanel; j += kLanes) {
        const int column = panel * kPanel + j;
        if (column >= model_.hidden) break;
        vf value = load(sums + j);
        if (w.bias != nullptr) value = add(value, load(w.bias + column));
        store(out + column, add(load(out + column), value));
      }
    });
  }

  void logits(Worker& at) {
    const SageLinear& head = model_.lm_head;
    const RowWriter to = writer(at, head, step_.num_out);
    if (step_.num_out == 0) return;
    const std::vector<Share> all{{0, step_.num_out}};
    form_rows(at, SAGE_NORM, all, to, [&](int i) { normalise(to, model_.final_norm, step_.out_rows[i], i); });
    product(at, SAGE_LM_HEAD, all, head, [&](int row, int panel, const float* sums) {
      float* out = step_.logits + static_cast<int64_t>(row) * model_.vocab;
      const int columns = std::min(kPanel, model_.vocab - panel * kPanel);
      if (columns == kPanel) return store_panel(out, head, panel, sums);
      for (int j = 0; j < columns; ++j) out[panel * kPanel + j] = sums[j] + (head.bias ? head.bias[panel * kPanel + j] : 0);
    });
  }

  static constexpr int kMaxHidden = 16384;
  const SageModel& model_;
  const SageStep& step_;
  sage::Pool& pool_;
  Scratch scratch_;
  const int64_t hidden_stride_;
  const int half_;
  const bool decoding_;  // every sequence has one row
  std::vector<Share> shares_;
  std::vector<std::vector<AttentionWork>> attention_;  // of each share
};

inline int64_t scratch_bytes(const SageModel& model, int rows, int outputs) {
  return Scratch(model, rows, outputs, nullptr).arena.used();
}

inline void forward(const SageModel& model, const SageStep& step, void* scratch) {
  switch (model.kv_kind) {
    case SAGE_KV_BF16: Step<KvBf16>(model, step, scratch).run(); break;
    case SAGE_KV_INT8: Step<KvInt8>(model, step, scratch).run(); break;
    default: Step<KvF32>(model, step, scratch).run();
  }
}

}  // namespace SAGE_ISA
