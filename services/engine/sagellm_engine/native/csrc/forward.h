// One step of a decoder: every thread runs through the same phases, takes pieces of each as they come, and meets the
// others at the end of a phase.
#pragma once

#include <atomic>
#include <vector>

#include "attention.h"
#include "pool.h"
#include "rows.h"

namespace SAGE_ISA {

constexpr int kPhasesALayer = 10;
constexpr int kPhasesAround = 3;  // embedding, last norm, logits

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
    counters = arena.take<std::atomic<int32_t>>((model.num_layers * kPhasesALayer + kPhasesAround) * kCounterStride);
    residual = arena.take<float>(rows * round_up(model.hidden, kGroup));
    qkv = arena.take<float>(rows * round_up(layer.qkv.num_out, kPanel));
    wide = arena.take<float>(rows * width);
    operand = arena.take<char>(std::max(rows, outputs) * most_bytes);
    scales = arena.take<float>(std::max(rows, outputs));
    sums = arena.take<int32_t>(std::max(rows, outputs) * (width / kGroup));
    cosines = arena.take<float>(static_cast<int64_t>(rows) * model.head_dim / 2);
    sines = arena.take<float>(static_cast<int64_t>(rows) * model.head_dim / 2);
    sequence = arena.take<int32_t>(rows);
  }

  static constexpr int kCounterStride = 16;  // a cache line each
  Arena arena;
  int64_t width;
  std::atomic<int32_t>* counters;
  float *residual, *qkv, *wide;
  char* operand;
  float* scales;
  int32_t* sums;
  float *cosines, *sines;
  int32_t* sequence;  // of each row
};

struct AttentionWork {
  int sequence, first_row, num_rows;
};

template <class Kv>
class Step {
 public:
  Step(const SageModel& model, const SageStep& step, void* scratch)
      : model_(model), step_(step), pool_(sage::Pool::instance()),
        scratch_(model, step.num_rows, step.num_out, scratch),
        hidden_stride_(round_up(model.hidden, kGroup)), half_(model.head_dim / 2) {
    const int num_counters = model.num_layers * kPhasesALayer + kPhasesAround;
    for (int i = 0; i < num_counters; ++i) scratch_.counters[i * Scratch::kCounterStride].store(0);
    plan_attention();
  }

  void run() {
    pool_.run([](void* self, int) { static_cast<Step*>(self)->work(); }, this);
  }

 private:
  // Splits sequences into pieces of attention, the most expensive first.
  void plan_attention() {
    const int at_once = rows_at_once(model_);
    for (int s = 0; s < step_.num_seqs; ++s)
      for (int row = step_.first_row[s]; row < step_.first_row[s + 1]; row += at_once) {
        const int rows = std::min(at_once, step_.first_row[s + 1] - row);
        attention_.push_back({s, row, rows});
        for (int i = row; i < row + rows; ++i) scratch_.sequence[i] = s;
      }
    const auto cost = [this](const AttentionWork& w) { return (position(w.first_row) + 1) * w.num_rows; };
    std::sort(attention_.begin(), attention_.end(), [&](const AttentionWork& a, const AttentionWork& b) {
      return cost(a) != cost(b) ? cost(a) > cost(b) : a.first_row < b.first_row;
    });
  }

  int position(int row) const {
    const int s = scratch_.sequence[row];
    return step_.context[s] + row - step_.first_row[s];
  }

  // Runs f(0) to f(count - 1), divided among the threads, and waits for all of them.
  template <class F>
  void phase(int& number, int count, F f) {
    std::atomic<int32_t>& next = scratch_.counters[number++ * Scratch::kCounterStride];
    for (int i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) f(i);
    pool_.barrier();
  }

  // Runs f(row) for all rows of a product's input, a tile of rows at a time: rows of a tile share cache lines.
  template <class F>
  void row_phase(int& number, int rows, F f) {
    const int tiles = rows == 0 ? 0 : tile_number(rows - 1, rows) + 1;
    phase(number, tiles, [&](int tile) {
      for (int row = 0, i = 0; row < rows; ++i) {
        const int end = row + tile_rows(rows - row);
        if (i == tile)
          for (int r = row; r < end; ++r) f(r);
        row = end;
      }
    });
  }

  static int tile_number(int row, int rows) {
    int number = 0;
    for (int end = tile_rows(rows); row >= end; end += tile_rows(rows - end)) ++number;
    return number;
  }

  template <class Finish>
  void product(int& number, const SageLinear& w, int rows, Finish finish) {
    const RowWriter input = writer(w, rows);
    const int panels = num_panels(w), at_once = panels_at_once(rows);
    phase(number, (panels + at_once - 1) / at_once, [&](int i) {
      multiply(w, input.rows(), model_.compute, rows, i * at_once, std::min(panels, (i + 1) * at_once), finish);
    });
  }

  RowWriter writer(const SageLinear& w, int rows) const {
    return {w, model_.compute, rows, scratch_.operand, scratch_.scales, scratch_.sums};
  }

  void work() {
    int number = 0;
    phase(number, step_.num_rows, [this](int row) { embed(row); });
    for (int layer = 0; layer < model_.num_layers; ++layer) run_layer(number, layer);
    logits(number);
  }

  void embed(int row) {
    gather_row(model_.embedding, step_.tokens[row], scratch_.residual + row * hidden_stride_);
    rotation(position(row), model_.inv_freq, half_, scratch_.cosines + row * half_, scratch_.sines + row * half_);
  }

  void normalise(const RowWriter& writer, const float* gain, int from_row, int to_row) const {
    float normed[kMaxHidden];
    for (int i = model_.hidden; i < hidden_stride_; ++i) normed[i] = 0;
    rms_norm(scratch_.residual + from_row * hidden_stride_, gain, model_.eps, model_.hidden, normed);
    writer.put(to_row, normed);
  }

  void run_layer(int& number, int index) {
    const SageLayer& layer = model_.layers[index];
    const int rows = step_.num_rows;
    row_phase(number, rows, [&](int row) { normalise(writer(layer.qkv, rows), layer.input_norm, row, row); });
    const int64_t qkv_stride = round_up(layer.qkv.num_out, kPanel);
    product(number, layer.qkv, rows, [&](int row, int panel, const float* sums) {
      store_panel(scratch_.qkv + row * qkv_stride, layer.qkv, panel, sums);
    });
    phase(number, rows, [&](int row) { place_row(layer, index, row, scratch_.qkv + row * qkv_stride); });
    attend(number, layer, index, qkv_stride);
    add_to_residual(number, layer.o);
    row_phase(number, rows, [&](int row) { normalise(writer(layer.gate_up, rows), layer.post_norm, row, row); });
    activate(number, layer);
    add_to_residual(number, layer.down);
  }

  static void store_panel(float* out, const SageLinear& w, int panel, const float* sums) {
    for (int j = 0; j < kPanel; j += kLanes) {
      vf value = load(sums + j);
      if (w.bias != nullptr) value = add(value, load(w.bias + panel * kPanel + j));
      store(out + panel * kPanel + j, value);
    }
  }

  // Norms and rotates a row's heads in place, scales its queries and puts its key and value into their page.
  void place_row(const SageLayer& layer, int index, int row, float* qkv) const {
    const int dim = model_.head_dim;
    const float *cosines = scratch_.cosines + row * half_, *sines = scratch_.sines + row * half_;
    float* keys = qkv + model_.num_heads * dim;
    for (int h = 0; h < model_.num_heads + model_.num_kv_heads; ++h) {
      const bool is_query = h < model_.num_heads;
      float* x = qkv + h * dim;
      const float* gain = is_query ? layer.q_norm : layer.k_norm;
      if (gain != nullptr) rms_norm(x, gain, model_.eps, dim, x);
      rotate(x, cosines, sines, half_, is_query ? model_.score_scale : 1.0f);
    }
    const float* values = keys + model_.num_kv_heads * dim;
    const int s = scratch_.sequence[row], at = position(row);
    const int page = step_.pages[step_.first_page[s] + at / kPage];
    for (int h = 0; h < model_.num_kv_heads; ++h)
      write_token<Kv>(page_block<Kv>(model_, index, page, h), at % kPage, keys + h * dim, values + h * dim, dim);
  }

  void attend(int& number, const SageLayer& layer, int index, int64_t qkv_stride) {
    const int kv_heads = model_.num_kv_heads, group = model_.num_heads / kv_heads, dim = model_.head_dim;
    const int64_t stride = padded_in(layer.o);
    phase(number, static_cast<int>(attention_.size()) * kv_heads, [&](int i) {
      const AttentionWork& work = attention_[i / kv_heads];
      const int head = i % kv_heads, first_page = step_.first_page[work.sequence];
      const AttentionPlace place{
          step_.pages + first_page, step_.first_page[work.sequence + 1] - first_page, position(work.first_row),
          work.num_rows, scratch_.qkv + work.first_row * qkv_stride + head * group * dim, qkv_stride,
          layer.sinks ? layer.sinks + head * group : nullptr, layer.window, model_.score_cap};
      AttentionPiece<Kv>(model_, index, head, place).run([&](int row, int in_group, const float* values) {
        float* out = scratch_.wide + (work.first_row + row) * stride + (head * group + in_group) * dim;
        for (int d = 0; d < dim; d += kLanes) store(out + d, load(values + d));
      });
    });
  }

  void activate(int& number, const SageLayer& layer) {
    const int64_t stride = padded_in(layer.down);
    product(number, layer.gate_up, step_.num_rows, [&](int row, int panel, const float* sums) {
      vf gate = load(sums), up = load(sums + kLanes);
      if (layer.gate_up.bias != nullptr) {
        gate = add(gate, load(layer.gate_up.bias + panel * kPanel));
        up = add(up, load(layer.gate_up.bias + panel * kPanel + kLanes));
      }
      store(scratch_.wide + row * stride + panel * kLanes, mul(silu(gate), up));
    });
  }

  // residual += wide · wᵀ + bias
  void add_to_residual(int& number, const SageLinear& w) {
    const int64_t stride = padded_in(w);
    const RowWriter rows = writer(w, step_.num_rows);
    row_phase(number, step_.num_rows, [&](int row) {
      float* wide = scratch_.wide + row * stride;
      for (int64_t i = w.num_in; i < stride; ++i) wide[i] = 0;
      rows.put(row, wide);
    });
    product(number, w, step_.num_rows, [&](int row, int panel, const float* sums) {
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

  void logits(int& number) {
    const SageLinear& head = model_.lm_head;
    row_phase(number, step_.num_out, [&](int i) { normalise(writer(head, step_.num_out), model_.final_norm, step_.out_rows[i], i); });
    product(number, head, step_.num_out, [&](int row, int panel, const float* sums) {
      float* out = step_.logits + static_cast<int64_t>(row) * model_.vocab;
      const int columns = std::min(kPanel, model_.vocab - panel * kPanel);
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
  std::vector<AttentionWork> attention_;
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
