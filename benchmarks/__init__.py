"""Benchmarks: one entry point, `python -m benchmarks`; results with the machine's description in `results/`."""

import os

for name in ("OMP_PROC_BIND", "OMP_PLACES"):  # OpenMP would bind this process, and all that it starts, to one processor
    os.environ.pop(name, None)
