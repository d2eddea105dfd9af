// What one instruction set offers: the same functions, compiled for each of them.
#pragma once

#include "abi.h"

namespace sage {

struct Isa {
  const char* name;
  int panel_width;
  bool has_bf16;
  bool (*supported)();
  int64_t (*scratch_bytes)(const SageModel&, int rows, int outputs);
  void (*forward)(const SageModel&, const SageStep&, void* scratch);
  int64_t (*packed_bytes)(const SageLinear&);
  bool (*fits_bf12)(const SageLinear&, const void* source, int32_t interleaved);
  void (*pack)(const SageLinear&, const void* source, int32_t source_kind, int32_t interleaved);
  void (*pack_screen)(const SageScreen&, const void* source, int32_t source_kind);
  void (*linear)(const SageLinear&, int32_t compute, int32_t rows, const float* x, float* out, void* scratch);
  void (*sample)(const SageSampling* rows, int32_t num_rows, float* logits, int32_t vocab, SageSampled* out);
};

extern const Isa kAvx2, kAvx512, kAvx512Vnni, kAvx512Bf16;

}  // namespace sage
