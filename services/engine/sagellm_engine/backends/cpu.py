"""The `cpu` backend: plain torch in fp32."""

from importlib.util import find_spec

import torch

from sagellm_common.errors import InvalidArgument
from sagellm_engine.backends.memory import free_host_bytes
from sagellm_engine.backends.torch_loader import load_runner
from sagellm_engine.backends.torch_runner import TorchRunner
from sagellm_engine.core.config import EngineConfig

MAX_BATCH_TOKENS = 512
KV_SHARE = 0.5
"""Of the memory that may be used, this much goes to KV pages unless told otherwise; neighbours need memory too."""


def missing() -> str | None:
    """Return None: torch computes on any processor."""
    return None if find_spec("torch") is not None else "torch is not installed"


def load(config: EngineConfig) -> TorchRunner:
    """Load a model into memory; bf16 checkpoints are computed in fp32."""
    if config.device not in (None, "cpu"):
        raise InvalidArgument(f"backend 'cpu' cannot use device {config.device!r}", param="device")
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    return load_runner(
        config,
        backend="cpu",
        device=torch.device("cpu"),
        hardware=torch.backends.cpu.get_cpu_capability().lower(),
        auto_dtype=lambda _: "float32",
        max_batch_tokens=MAX_BATCH_TOKENS,
        free_bytes=lambda: int(free_host_bytes() * config.memory_utilization * KV_SHARE),
    )
