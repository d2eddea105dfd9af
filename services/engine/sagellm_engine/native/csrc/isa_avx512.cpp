#define SAGE_ISA avx512
#define SAGE_ISA_NAME "avx512"
#define SAGE_ISA_TABLE kAvx512
#define SAGE_ISA_NEEDS \
  __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && \
      __builtin_cpu_supports("avx512dq")
#include "isa.inc"
