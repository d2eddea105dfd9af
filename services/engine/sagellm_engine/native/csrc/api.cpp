// The C functions: choose the instruction set once, then call into it.
#include <cstring>

#include "isa.h"
#include "philox.h"
#include "pool.h"

namespace {

using sage::Isa;

const Isa* const kAll[] = {&sage::kAvx512Bf16, &sage::kAvx512Vnni, &sage::kAvx512, &sage::kAvx2};  // best first

const Isa* find_best() {
  __builtin_cpu_init();
  for (const Isa* isa : kAll)
    if (isa->supported()) return isa;
  return nullptr;
}

const Isa*& chosen() {
  static const Isa* isa = find_best();
  return isa;
}

}  // namespace

extern "C" {

const char* sage_isa(void) { return chosen() ? chosen()->name : ""; }

int32_t sage_set_isa(const char* name) {
  __builtin_cpu_init();
  for (const Isa* isa : kAll)
    if (std::strcmp(isa->name, name) == 0 && isa->supported()) {
      chosen() = isa;
      return 0;
    }
  return -1;
}

int32_t sage_panel_width(void) { return chosen()->panel_width; }

int32_t sage_has_bf16(void) { return chosen()->has_bf16; }

int32_t sage_set_threads(int32_t num_threads, const int32_t* processors, int32_t num_processors) {
  sage::Pool::instance().resize(num_threads, std::vector<int>(processors, processors + num_processors));
  return 0;
}

int64_t sage_packed_bytes(const SageLinear* w) { return chosen()->packed_bytes(*w); }

int32_t sage_fits_bf12(const SageLinear* w, const void* source, int32_t interleaved) {
  return chosen()->fits_bf12(*w, source, interleaved);
}

int32_t sage_pack(const SageLinear* w, const void* source, int32_t source_kind, int32_t interleaved) {
  chosen()->pack(*w, source, source_kind, interleaved);
  return 0;
}

int32_t sage_pack_screen(const SageScreen* screen, const void* source, int32_t source_kind) {
  chosen()->pack_screen(*screen, source, source_kind);
  return 0;
}

int64_t sage_scratch_bytes(const SageModel* model, int32_t num_rows, int32_t num_out) {
  return chosen()->scratch_bytes(*model, num_rows, num_out);
}

int32_t sage_forward(const SageModel* model, const SageStep* step, void* scratch) {
  chosen()->forward(*model, *step, scratch);
  return 0;
}

int32_t sage_linear(const SageLinear* w, int32_t compute, int32_t rows, const float* x, float* out, void* scratch) {
  chosen()->linear(*w, compute, rows, x, out, scratch);
  return 0;
}

int32_t sage_sample(const SageSampling* rows, int32_t num_rows, float* logits, int32_t vocab, SageSampled* out) {
  chosen()->sample(rows, num_rows, logits, vocab, out);
  return 0;
}

void sage_philox(const uint32_t* counter, const uint32_t* key, uint32_t* words) {
  for (int i = 0; i < 4; ++i) words[i] = counter[i];
  sage::philox(words, key[0], key[1]);
}
}
