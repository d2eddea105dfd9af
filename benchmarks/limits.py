"""What the machine can do at best: bytes read a second and operations a second, the roof that every engine is under."""

import threading
import time
from collections.abc import Callable
from functools import partial

import torch

from sagellm_engine.native.abi import Compute, WeightKind
from sagellm_engine.native.library import library
from sagellm_engine.native.product import PackedWeight

REPEATS = 7
READ_BYTES = 1 << 29
SIZE, ROWS = 1024, 480
OUTPUTS = 4096  # so many that bringing the rows into form hardly counts


def best_rate(work: float, run: Callable[[], object]) -> float:
    """Work per second of the fastest of several runs."""
    run()
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return work / best


def together(tasks: list[Callable[[], object]]) -> Callable[[], None]:
    """Run tasks at once, one a thread; they let go of the interpreter's lock."""

    def run() -> None:
        threads = [threading.Thread(target=task) for task in tasks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return run


def read_bytes_per_s(num_threads: int) -> float:
    """Bytes summed a second by so many threads, each over memory of its own that no cache holds."""
    torch.set_num_threads(1)
    parts = [torch.ones(READ_BYTES // 4 // num_threads) for _ in range(num_threads)]
    return best_rate(READ_BYTES, together([part.sum for part in parts]))


def torch_ops_per_s(dtype: torch.dtype, num_threads: int) -> float:
    """Operations a second of torch's product of two square matrices."""
    torch.set_num_threads(num_threads)
    a, b = (torch.randn(SIZE, SIZE).to(dtype) for _ in range(2))
    return best_rate(2 * SIZE**3, lambda: a @ b)


def our_ops_per_s(kind: WeightKind, compute: Compute, num_threads: int) -> float:
    """Operations a second of our own product, one on each thread."""
    dtype = torch.bfloat16 if kind is WeightKind.BF16 else torch.float32
    tasks: list[Callable[[], object]] = []
    for _ in range(num_threads):
        weight = PackedWeight(torch.randn(OUTPUTS, SIZE).to(dtype), kind)
        tasks.append(partial(weight, torch.randn(ROWS, SIZE), compute))
    return best_rate(2 * SIZE * OUTPUTS * ROWS * num_threads, together(tasks))


def measure(num_threads: int) -> dict[str, float]:
    """All limits, in GB/s and in 10⁹ operations a second."""
    has_bf16 = bool(library().sage_has_bf16())
    fp32 = max(torch_ops_per_s(torch.float32, num_threads), our_ops_per_s(WeightKind.F32, Compute.F32, num_threads))
    limits = {"read": read_bytes_per_s(num_threads), "fp32": fp32}
    limits["int8"] = our_ops_per_s(WeightKind.INT8, Compute.INT8, num_threads)
    limits["int4"] = our_ops_per_s(WeightKind.INT4, Compute.INT8, num_threads)
    if has_bf16:
        ours = our_ops_per_s(WeightKind.BF16, Compute.BF16, num_threads)
        limits["bf16"] = max(torch_ops_per_s(torch.bfloat16, num_threads), ours)
    return {name: round(rate / 1e9, 1) for name, rate in limits.items()}
