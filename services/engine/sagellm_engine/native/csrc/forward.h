// One step of a decoder: every thread runs through the same phases, takes pieces of each as they come, and meets the
// others at the end of a phase.
#pragma once

#include <chrono>
#include <vector>

#include "attention.h"
#include "pool.h"
#include "scratch.h"

namespace SAGE_ISA {

constexpr int kShareRows = 96;  // so many for each thread, and it keeps to its own: their data stay in its cache

// Rows of a sequence, and where the result of the first one goes.
struct AttentionWork {
  int sequence, first_row, num_rows, to_row;
};

// What phases go over: all rows of a step, or, behind the last layer's keys and values, those that get logits.
struct Selection {
  std::vector<Share> shares;
  std::vector<std::vector<AttentionWork>> attention;  // of each share
  float* residual;

  int rows() const { return shares.back().end; }
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
        decoding_(step.num_rows == step.num_seqs), selects_(!decoding_ && step.num_out < step.num_rows) {
    all_ = divided(step.num_rows, scratch_.residual);
    plan_attention();
    if (!selects_) return;
    wanted_ = divided(step.num_out, scratch_.wanted_residual);
    plan_wanted_attention();
  }

  void run() {
    pool_.run([](void* self, int thread) { static_cast<Step*>(self)->work(Worker{thread}); }, this);
    for (int i = 0; i < step_.num_chosen; ++i) step_.chosen[i] = scratch_.screening.token(i);
  }

 private:
  // Gives every thread its share of the rows, if there are enough; else all take from one.
  Selection divided(int rows, float* residual) const {
    const int tiles = (rows + kMaxTile - 1) / kMaxTile;
    const int count = rows >= kShareRows * pool_.size() ? pool_.size() : 1;
    Selection selection{{}, std::vector<std::vector<AttentionWork>>(count), residual};
    for (int i = 0; i < count; ++i)
      selection.shares.push_back({tiles * i / count * kMaxTile, std::min(rows, tiles * (i + 1) / count * kMaxTile)});
    return selection;
  }

  // Splits sequences into pieces of attention, in each share the most expensive first.
  void plan_attention() {
    const int at_once = rows_at_once(model_);
    size_t share = 0;
    for (int s = 0; s < step_.num_seqs; ++s)
      for (int row = step_.first_row[s]; row < step_.first_row[s + 1]; row += at_once) {
        const int rows = std::min(at_once, step_.first_row[s + 1] - row);
        while (row >= all_.shares[share].end) ++share;
        all_.attention[share].push_back({s, row, rows, row});
        for (int i = row; i < row + rows; ++i) scratch_.sequence[i] = s;
      }
    const auto cost = [this](const AttentionWork& w) { return (position(w.first_row) + 1) * w.num_rows; };
    for (auto& pieces : all_.attention)
      std::sort(pieces.begin(), pieces.end(), [&](const AttentionWork& a, const AttentionWork& b) {
        return cost(a) != cost(b) ? cost(a) > cost(b) : a.first_row < b.first_row;
      });
  }

  void plan_wanted_attention() {
    size_t share = 0;
    for (int i = 0; i < step_.num_out; ++i) {
      while (i >= wanted_.shares[share].end) ++share;
      const int row = step_.out_rows[i];
      wanted_.attention[share].push_back({scratch_.sequence[row], row, 1, i});
    }
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
    const int number = at.phase++;
    for (size_t k = 0; k < shares; ++k) {
      const size_t share = (at.thread + k) % shares;
      std::atomic<int32_t>& counter = scratch_.counter(share, number);
      const auto take = [&counter] { return counter.fetch_add(1, std::memory_order_relaxed); };
      const int end = count(share);
      if (counter.load(std::memory_order_relaxed) >= end) continue;  // its owner may be writing the line
      for (int i = take(), then; i < end; i = then) {
        then = take();
        f(share, i, std::min(then, end - 1));
      }
    }
    pool_.barrier(at.thread);
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

  Rows formed(const Worker& at, const SageLinear& w, int rows) const { return writer(at, w, rows).rows(); }

  template <class Finish>
  void product(Worker& at, SagePhase kind, const std::vector<Share>& shares, const SageLinear& w, const Rows& input,
               Finish finish) {
    const Multiplication multiplication(w, input, model_.compute, shares.back().end);
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
    for (int64_t i = 0; i < scratch_.phases; ++i) scratch_.counter(at.thread, i).store(0, std::memory_order_relaxed);
    pool_.barrier(at.thread);
    phase_of_rows(at, SAGE_EMBED, all_.shares, 1, [this](int row, int) { embed(row); });
    for (int layer = 0; layer + 1 < model_.num_layers; ++layer) run_layer(at, layer, all_);
    run_layer(at, model_.num_layers - 1, selects_ ? wanted_ : all_);
    if (step_.num_out > step_.num_chosen) logits(at, step_.num_out - step_.num_chosen);
    if (step_.num_chosen > 0) choose(at, step_.num_out - step_.num_chosen);
  }

  void embed(int row) {
    gather_row(model_.embedding, step_.tokens[row], scratch_.residual + row * hidden_stride_);
    rotation(position(row), model_.inv_freq, half_, scratch_.cosines + row * half_, scratch_.sines + row * half_);
  }

  void normalise(const RowWriter& writer, const float* gain, const float* residual, int row) const {
    alignas(64) float normed[kMaxHidden];
    rms_norm(residual, gain, model_.eps, model_.hidden, normed);
    writer.put(row, normed);
  }

  void norm_into(Worker& at, const Selection& rows, const SageLinear& w, const float* gain) {
    const RowWriter to = writer(at, w, rows.rows());
    form_rows(at, SAGE_NORM, rows.shares, to,
              [&](int row) { normalise(to, gain, rows.residual + row * hidden_stride_, row); });
  }

  // Runs a layer; behind its keys and values only some of its rows may be wanted.
  void run_layer(Worker& at, int index, const Selection& wanted) {
    const SageLayer& layer = model_.layers[index];
    norm_into(at, all_, layer.qkv, layer.input_norm);
    const Rows normed = formed(at, layer.qkv, all_.rows());
    product(at, SAGE_QKV, all_.shares, layer.qkv, normed, [&](int row, int rows, int panel, const float* sums) {
      for (int m = 0; m < rows; ++m) store_panel(qkv(layer, row + m), layer.qkv, panel, sums + m * kPanel);
    });
    if (!decoding_) place_all(at, layer, index);
    if (wanted.rows() == 0) return;
    if (&wanted != &all_) select(at);
    attend(at, wanted, layer, index);
    form(at, wanted, layer.o, scratch_.mixed);
    add_to_residual(at, SAGE_O, wanted, layer.o, formed(at, layer.o, wanted.rows()));
    norm_into(at, wanted, layer.gate_up, layer.post_norm);
    if (activates_in_form(layer.down, wanted.rows())) {
      activate_in_form(at, wanted, layer);
      add_to_residual(at, SAGE_DOWN, wanted, layer.down, {reinterpret_cast<const char*>(scratch_.wide),
                                                          row_bytes(layer.down, model_.compute), nullptr, nullptr});
    } else {
      activate(at, wanted, layer);
      form(at, wanted, layer.down, scratch_.wide);
      add_to_residual(at, SAGE_DOWN, wanted, layer.down, formed(at, layer.down, wanted.rows()));
    }
  }

  void select(Worker& at) {
    phase_of_rows(at, SAGE_NORM, wanted_.shares, 1, [this](int i, int) {
      const float* from = all_.residual + step_.out_rows[i] * hidden_stride_;
      std::copy(from, from + hidden_stride_, wanted_.residual + i * hidden_stride_);
    });
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

  void place_all(Worker& at, const SageLayer& layer, int index) {
    phase_of_rows(at, SAGE_ROTARY, all_.shares, kPage, [&](int first, int end) {  // a page's tokens share cache lines
      for (int head = 0; head < model_.num_kv_heads; ++head)
        for (int row = first; row < end; ++row) place(layer, index, row, head);
    });
  }

  void attend(Worker& at, const Selection& rows, const SageLayer& layer, int index) {
    const int kv_heads = model_.num_kv_heads;
    const auto count = [&](size_t share) { return static_cast<int>(rows.attention[share].size()) * kv_heads; };
    phase(at, SAGE_ATTENTION, rows.shares.size(), count, [&](size_t share, int i, int then) {
      const auto& pieces = rows.attention[share];
      const AttentionWork &work = pieces[i / kv_heads], &next = pieces[then / kv_heads];
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
      float* out = scratch_.mixed + (work.to_row + row) * padded_in(layer.o) + (head + in_group) * dim;
      for (int d = 0; d < dim; d += kLanes) store(out + d, load(values + d));
    });
  }

  void activate(Worker& at, const Selection& wanted, const SageLayer& layer) {
    const int64_t stride = padded_in(layer.down);
    const Rows input = formed(at, layer.gate_up, wanted.rows());
    const auto finish = [&](int row, int rows, int panel, const float* sums) {
      for (int m = 0; m < rows; ++m)
        store(scratch_.wide + (row + m) * stride + panel * kLanes, activated(layer.gate_up, panel, sums + m * kPanel));
    };
    product(at, SAGE_GATE_UP, wanted.shares, layer.gate_up, input, finish);
  }

  // Whether the activations can be written as the product behind them takes its rows: quantized ones want whole rows
  // first, and of few rows every thread makes its own.
  bool activates_in_form(const SageLinear& w, int rows) const {
    return rows > kFewRows && !is_quantized(w) && padded_in(w) == w.num_in;
  }

  void activate_in_form(Worker& at, const Selection& wanted, const SageLayer& layer) {
    const Rows input = formed(at, layer.gate_up, wanted.rows());
    const int64_t units = row_bytes(layer.down, model_.compute) / 4;
    const bool halves = units < layer.down.num_in;
    Unit* to = reinterpret_cast<Unit*>(scratch_.wide);
    const auto finish = [&](int row, int rows, int panel, const float* sums) {
      alignas(64) Unit tile[kMaxTile * kLanes];
      const int count = halves ? kLanes / 2 : kLanes;
      for (int m = 0; m < rows; ++m) {
        const vf values = activated(layer.gate_up, panel, sums + m * kPanel);
        if (halves)
          store_bf16(reinterpret_cast<uint16_t*>(tile + m * count), values);
        else
          store(reinterpret_cast<float*>(tile + m * count), values);
      }
      interleave(tile, count, rows, count, to + row * units + panel * count * rows);
    };
    product(at, SAGE_GATE_UP, wanted.shares, layer.gate_up, input, finish);
  }

  // silu(gate) · up of one row, whose sums lie side by side.
  static vf activated(const SageLinear& gate_up, int panel, const float* sums) {
    vf gate = load(sums), up = load(sums + kLanes);
    if (gate_up.bias != nullptr) {
      gate = add(gate, load(gate_up.bias + panel * kPanel));
      up = add(up, load(gate_up.bias + panel * kPanel + kLanes));
    }
    return mul(silu(gate), up);
  }

  // Brings rows into the form that a product takes.
  void form(Worker& at, const Selection& rows, const SageLinear& w, const float* x) {
    const RowWriter to = writer(at, w, rows.rows());
    const int64_t stride = padded_in(w);
    form_rows(at, SAGE_FORM, rows.shares, to, [&](int row) { to.put(row, x + row * stride); });
  }

  // residual += x · wᵀ + bias
  void add_to_residual(Worker& at, SagePhase kind, const Selection& wanted, const SageLinear& w, const Rows& x) {
    product(at, kind, wanted.shares, w, x, [&](int row, int rows, int panel, const float* sums) {
      float* out = wanted.residual + row * hidden_stride_;
      for (int m = 0; m < rows; ++m) add_panel(out + m * hidden_stride_, w, panel, sums + m * kPanel);
    });
  }

  void add_panel(float* out, const SageLinear& w, int panel, const float* sums) const {
    for (int j = 0; j < kPanel; j += kLanes) {
      const int column = panel * kPanel + j;
      if (column >= model_.hidden) break;
      vf value = load(sums + j);
      if (w.bias != nullptr) value = add(value, load(w.bias + column));
      store(out + column, add(load(out + column), value));
    }
  }

  const float* wanted_residual(int i) const {
    return selects_ ? wanted_.residual + i * hidden_stride_ : all_.residual + step_.out_rows[i] * hidden_stride_;
  }

  void logits(Worker& at, int count) {
    const SageLinear& head = model_.lm_head;
    const RowWriter to = writer(at, head, count);
    const std::vector<Share> all{{0, count}};
    form_rows(at, SAGE_NORM, all, to, [&](int i) { normalise(to, model_.final_norm, wanted_residual(i), i); });
    const Rows input = formed(at, head, count);
    product(at, SAGE_LM_HEAD, all, head, input, [&](int row, int rows, int panel, const float* sums) {
      float* out = step_.logits + static_cast<int64_t>(row) * model_.vocab;
      for (int m = 0; m < rows; ++m, out += model_.vocab, sums += kPanel) store_logits(out, panel, sums);
    });
  }

  // Of the rows behind those that get logits, the tokens.
  void choose(Worker& at, int begin) {
    const SageLinear& coarse = model_.screen.weight;
    const Screening& screening = scratch_.screening;
    const RowWriter to = writer(at, coarse, step_.num_chosen);
    const int first = to.stage == nullptr ? at.thread * kFewRows : 0;  // place of the rows that this thread looks at
    const std::vector<Share> all{{0, step_.num_chosen}};
    screening.begin(at.thread);
    form_rows(at, SAGE_NORM, all, to, [&](int i) {
      alignas(64) float normed[kMaxHidden];
      rms_norm(wanted_residual(begin + i), model_.final_norm, model_.eps, model_.hidden, normed);
      screening.put(first + i, i, normed, to);
    });
    const Rows input = formed(at, coarse, step_.num_chosen);
    product(at, SAGE_LM_HEAD, all, coarse, input, [&](int row, int rows, int panel, const float* sums) {
      for (int m = row; m < row + rows; ++m, sums += kPanel) screening.note(at.thread, first + m, m, panel, sums);
    });
    phase(at, SAGE_LM_HEAD, 1, [&](size_t) { return screening.pieces(step_.num_chosen); },
          [&](size_t, int i, int) { screening.search(i, step_.num_chosen, first); });
  }

  void store_logits(float* out, int panel, const float* sums) const {
    const SageLinear& head = model_.lm_head;
    const int columns = std::min(kPanel, model_.vocab - panel * kPanel);
    if (columns == kPanel) return store_panel(out, head, panel, sums);
    const float* bias = head.bias == nullptr ? nullptr : head.bias + panel * kPanel;
    for (int j = 0; j < columns; ++j) out[panel * kPanel + j] = sums[j] + (bias == nullptr ? 0.0f : bias[j]);
  }

  static constexpr int kMaxHidden = 16384;
  const SageModel& model_;
  const SageStep& step_;
  sage::Pool& pool_;
  Scratch scratch_;
  const int64_t hidden_stride_;
  const int half_;
  const bool decoding_;  // every sequence has one row
  const bool selects_;   // some rows get no logits
  Selection all_, wanted_;
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
