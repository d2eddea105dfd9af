#define SAGE_ISA avx2
#define SAGE_ISA_NAME "avx2"
#define SAGE_ISA_TABLE kAvx2
#define SAGE_ISA_NEEDS \
  __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")
#include "isa.inc"
