// The memory of a step.
#pragma once

#include <atomic>

#include "pool.h"
#include "screening.h"

namespace SAGE_ISA {

constexpr int kPhasesALayer = 10;  // at most
constexpr int kPhasesAround = 7;   // embedding, selection of rows; last norm, logits; norm, screen and search of tokens
constexpr int kFewRows = 4;

// The buffers of a step.
struct Scratch {
  Scratch(const SageModel& model, int rows, int outputs, void* base)
      : arena(base), threads(sage::Pool::instance().size()),
        screening(model, outputs, std::max<int>(outputs, threads * kFewRows), threads, arena) {
    const SageLayer& layer = model.layers[0];
    const SageLinear* linears[] = {&layer.qkv, &layer.o, &layer.gate_up, &layer.down, &model.lm_head};
    int64_t widest = 0, most_bytes = 0;
    for (const SageLinear* w : linears) {
      widest = std::max<int64_t>(widest, padded_in(*w));
      most_bytes = std::max(most_bytes, row_bytes(*w, model.compute));
    }
    width = widest;
    phases = model.num_layers * kPhasesALayer + kPhasesAround;
    counters = arena.take<std::atomic<int32_t>>(threads * phases * kCounterStride);
    residual = arena.take<float>(rows * round_up(model.hidden, kGroup));
    wanted_residual = arena.take<float>(outputs * round_up(model.hidden, kGroup));
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

  // Counts the pieces that are taken of a thread's own share of a phase.
  std::atomic<int32_t>& counter(size_t thread, int64_t phase) const {
    return counters[(thread * phases + phase) * kCounterStride];
  }

  static constexpr int kCounterStride = 16;  // a cache line each
  Arena arena;
  int64_t threads;
  Screening screening;
  int64_t phases, width;
  int64_t operand_bytes, num_sums;  // of one thread that makes its own rows
  std::atomic<int32_t>* counters;
  float *residual, *wanted_residual;
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

}  // namespace SAGE_ISA
