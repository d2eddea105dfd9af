"""The processors that kernels' threads are pinned to."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["sagellm_engine.backends.cpu", "sagellm_engine.inprocess", "sagellm_engine.native"])
def test_they_are_read_before_openmp_binds_the_thread(module: str) -> None:
    """Whatever of the package is imported first, and with OpenMP told to bind its threads, all processors are found."""
    code = f"import {module}; from sagellm_engine import PROCESSORS; import torch; print(len(PROCESSORS))"
    env = {**os.environ, "OMP_PROC_BIND": "true", "OMP_PLACES": "cores"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert int(done.stdout) == len(os.sched_getaffinity(0))
