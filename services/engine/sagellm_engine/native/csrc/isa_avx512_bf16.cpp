#define SAGE_ISA avx512_bf16
#define SAGE_ISA_NAME "avx512_bf16"
#define SAGE_ISA_TABLE kAvx512Bf16
#define SAGE_ISA_NEEDS \
  __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && \
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni") && \
      __builtin_cpu_supports("avx512bf16")
#include "isa.inc"
