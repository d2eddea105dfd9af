// The C ABI: plain structs of pointers and sizes. The Python side mirrors them in abi.py; all sizes are in elements
// unless they say bytes. The caller owns all memory and keeps it alive during a call.
#pragma once

#include <cstdint>

extern "C" {

// How a weight is stored. The layouts are described in panels.h.
enum SageWeightKind : int32_t {
  SAGE_F32 = 0,
  SAGE_BF16 = 1,
  SAGE_F16 = 2,
  SAGE_INT8 = 3,  // symmetric, one scale per output
  SAGE_INT4 = 4,  // symmetric, one scale per output and group of 32 inputs
  SAGE_BF12 = 5,  // bfloat16, exponents in four bits, nothing lost
};

// How activations enter a product: as they are, rounded to bfloat16, or quantized per row.
enum SageCompute : int32_t { SAGE_COMPUTE_F32 = 0, SAGE_COMPUTE_BF16 = 1, SAGE_COMPUTE_INT8 = 2 };

enum SageKvKind : int32_t { SAGE_KV_F32 = 0, SAGE_KV_BF16 = 1, SAGE_KV_INT8 = 2 };

struct SageLinear {
  int32_t kind;
  int32_t num_in;
  int32_t num_out;
  int32_t reserved;
  const void* weight;    // packed
  const float* scale;    // INT8: [out]; INT4: packed with the weight; else null
  const int32_t* sums;   // INT8: sum of each output's integers [out]; else null
  const float* bias;     // [out] or null
};

// A copy of the output layer in INT8, and how far off it may be: see screening.h. All [outputs, in whole panels]; those
// behind the last have no limit.
struct SageScreen {
  SageLinear weight;      // without one, null, there is no copy
  const float* misses;    // length of what an output's weights lost
  const float* lengths;   // of an output's weights, here or there, whichever is longer
};

struct SageLayer {
  const float* input_norm;  // [hidden]
  const float* post_norm;   // [hidden]
  const float* q_norm;      // [head_dim] or null
  const float* k_norm;      // [head_dim] or null
  const float* sinks;       // [heads] or null
  SageLinear qkv;
  SageLinear o;
  SageLinear gate_up;       // packed with gate and up in turn, see pack.h
  SageLinear down;
  int32_t window;           // keys that a query sees, itself included; 0: all
  int32_t reserved;
};

struct SageModel {
  int32_t hidden;
  int32_t num_layers;
  int32_t num_heads;
  int32_t num_kv_heads;
  int32_t head_dim;
  int32_t vocab;
  int32_t compute;
  int32_t kv_kind;
  float eps;
  float score_scale;        // of query times key, 1 / sqrt(head_dim) in most families
  float score_cap;          // soft cap of scores; 0: none
  int64_t num_pages;
  const float* inv_freq;    // [head_dim / 2] radians a position
  const float* final_norm;  // [hidden]
  const SageLayer* layers;
  SageLinear embedding;     // [vocab, hidden]
  SageLinear lm_head;
  SageScreen screen;
  void* kv;                 // see kv.h
};

// Parts of a step, as its time is told.
enum SagePhase : int32_t {
  SAGE_EMBED = 0,
  SAGE_NORM = 1,       // with the form in which a product takes its rows
  SAGE_QKV = 2,
  SAGE_ROTARY = 3,     // with the write into pages; part of the attention where every sequence has one row
  SAGE_ATTENTION = 4,
  SAGE_O = 5,
  SAGE_GATE_UP = 6,
  SAGE_FORM = 7,       // of the rows of `o` and `down`
  SAGE_DOWN = 8,
  SAGE_LM_HEAD = 9,
  SAGE_NUM_PHASES = 10,
};

// One step: rows of several sequences, each sequence's rows one after the other.
struct SageStep {
  int32_t num_rows;
  int32_t num_seqs;
  int32_t num_out;
  int32_t num_chosen;         // of them, the last: only the likeliest token is asked for; needs a screen
  const int32_t* tokens;      // [rows]
  const int32_t* first_row;   // [seqs + 1]
  const int32_t* context;     // [seqs]: keys in the pages before the sequence's first row
  const int32_t* first_page;  // [seqs + 1] into pages
  const int32_t* pages;       // page numbers, sequence by sequence
  const int32_t* out_rows;    // [num_out]: rows that get logits, or their token
  float* logits;              // [num_out - num_chosen, vocab]
  int32_t* chosen;            // [num_chosen]; -1: the logits have a NaN or no finite maximum
  double* seconds;            // [SAGE_NUM_PHASES], added to, as the calling thread saw them; or null
};

constexpr int32_t kSageMaxLogprobs = 20;

// How one row's token is chosen. Limits that are off: top_k 0, top_p 1, min_p 0; penalties 0, repetition 1.
struct SageSampling {
  float temperature;       // 0: the likeliest token
  float top_p;
  float min_p;
  float repetition;        // over prompt and output
  float presence;          // over the output
  float frequency;         // over the output
  int32_t top_k;
  int32_t num_logprobs;    // alternatives, -1: no log-probabilities
  uint64_t seed;
  uint32_t position;       // of the token in the sequence
  uint32_t stream;
  const int32_t* tokens;   // [num_tokens] so far, or null without penalties
  int32_t num_tokens;
  int32_t num_prompt;
  const int32_t* bias_ids; // [num_bias]
  const float* bias;       // [num_bias], added; -inf forbids
  int32_t num_bias;
  int32_t reserved;
  const uint32_t* allowed; // a bit for each token of the vocabulary, or null
};

struct SageSampled {
  int32_t token;           // -1: the logits have a NaN or no finite maximum
  int32_t num_top;
  float logprob;           // of the token under the logits as they came
  float top_logprobs[kSageMaxLogprobs];
  int32_t top[kSageMaxLogprobs];
};

#pragma GCC visibility push(default)

// Name of the instruction set in use: the best that this processor has, unless one was chosen. "" if there is none.
const char* sage_isa(void);

// Chooses an instruction set by its name; returns 0, or -1 if this processor lacks it.
int32_t sage_set_isa(const char* name);

// Outputs of a panel in the packed layouts, for the instruction set in use.
int32_t sage_panel_width(void);

// Whether SAGE_COMPUTE_BF16 has instructions of its own.
int32_t sage_has_bf16(void);

// Threads that later calls use, the caller's included; the i-th stays on the i-th of the processors, if there are any.
int32_t sage_set_threads(int32_t num_threads, const int32_t* processors, int32_t num_processors);

// Bytes of a packed weight; kind, num_in and num_out are read.
int64_t sage_packed_bytes(const SageLinear* w);

// Whether a bfloat16 weight [out, in] can be packed as BF12: the instruction set has it, and the exponents are few
// enough. Of w, num_in and num_out are read; interleaved is as for sage_pack.
int32_t sage_fits_bf12(const SageLinear* w, const void* source, int32_t interleaved);

// Packs a weight [out, in] of kind F32, BF16 or F16 into w->weight, and w->scale and w->sums where the kind has them.
// With interleaved, its first half are gates and its second half ups, and every panel gets a vector of each.
int32_t sage_pack(const SageLinear* w, const void* source, int32_t source_kind, int32_t interleaved);

// Packs the copy of an output layer [out, in], and how far off it is.
int32_t sage_pack_screen(const SageScreen* screen, const void* source, int32_t source_kind);

// out [rows, out] = x [rows, in] times w, plus bias, on the calling thread. Scratch: 8 bytes per row and padded input
// and 64 KiB, aligned to 64.
int32_t sage_linear(const SageLinear* w, int32_t compute, int32_t rows, const float* x, float* out, void* scratch);

// Bytes of scratch memory, aligned to 64, that a step of so many rows and outputs needs.
int64_t sage_scratch_bytes(const SageModel* model, int32_t num_rows, int32_t num_out);

// Runs one step: writes keys and values into their pages, and the logits.
int32_t sage_forward(const SageModel* model, const SageStep* step, void* scratch);

// Chooses a token for each row of logits [num_rows, vocab], which are used up.
int32_t sage_sample(const SageSampling* rows, int32_t num_rows, float* logits, int32_t vocab, SageSampled* out);

// Philox4x32-10: the four words of a counter under a key, for tests.
void sage_philox(const uint32_t* counter, const uint32_t* key, uint32_t* words);

#pragma GCC visibility pop
}
