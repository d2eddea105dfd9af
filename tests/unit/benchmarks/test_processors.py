"""What a benchmark starts may use all processors."""

import os
import subprocess
import sys


def test_openmp_does_not_bind_the_process_that_starts_the_others() -> None:
    """With OpenMP told to bind its threads, a benchmark still hands all processors on to what it starts."""
    code = "import benchmarks, os, torch; torch.ones(99, 99) @ torch.ones(99, 99); print(len(os.sched_getaffinity(0)))"
    env = {**os.environ, "OMP_PROC_BIND": "true", "OMP_PLACES": "cores"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert int(done.stdout) == len(os.sched_getaffinity(0))
