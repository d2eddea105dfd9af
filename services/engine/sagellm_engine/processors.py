"""The processors that this process may use, read when the package is imported.

Later is too late: with OMP_PROC_BIND, torch's OpenMP runtime binds the calling thread to the first of them.
"""

import os

PROCESSORS = tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else (0,)
"""Their numbers."""
