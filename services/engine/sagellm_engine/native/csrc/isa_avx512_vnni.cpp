#define SAGE_ISA avx512_vnni
#define SAGE_ISA_NAME "avx512_vnni"
#define SAGE_ISA_TABLE kAvx512Vnni
#define SAGE_ISA_NEEDS \
  __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && \
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni")
#include "isa.inc"
