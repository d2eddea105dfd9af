"""How many threads each engine computes with, and where they run.

All engines together use at most max(cores - 1, number of engines) threads: a torch thread that shares its core with
a busy neighbour makes every step wait for it. Threads of a single engine are pinned, because unpinned ones at times
share a core.
"""

import os


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def engine_threads(cores: int, engines: int) -> int:
    """Return the threads of each of `engines` engines."""
    return max(max(cores - 1, engines) // engines, 1)


def engine_thread_env(cores: int, engines: int) -> dict[str, str]:
    """Return the environment that makes an engine compute so."""
    threads = engine_threads(cores, engines)
    env = {"SAGELLM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    if engines == 1 and threads > 1:  # pinned sets of several engines would overlap; one thread is best left free
        env |= {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores"}
    return env
