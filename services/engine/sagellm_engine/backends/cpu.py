"""The `cpu` backend: our own kernels, or plain torch in fp32 where they cannot be used."""

from importlib.util import find_spec

import torch

from sagellm_common.errors import InvalidArgument
from sagellm_engine.backends.memory import free_host_bytes
from sagellm_engine.backends.native_loader import can_load, load_native_runner
from sagellm_engine.backends.torch_loader import load_runner
from sagellm_engine.core.config import EngineConfig
from sagellm_engine.core.runner import Runner

MAX_BATCH_TOKENS = 512
KV_SHARE = 0.5
"""Of the memory that may be used, this much goes to KV pages unless told otherwise; neighbours need memory too."""


def missing() -> str | None:
    """Return None: torch computes on any processor."""
    return None if find_spec("torch") is not None else "torch is not installed"


def load(config: EngineConfig) -> Runner:
    """Load a model into memory; see `create_engine` for what is raised."""
    if config.device not in (None, "cpu"):
        raise InvalidArgument(f"backend 'cpu' cannot use device {config.device!r}", param="device")
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)

    def free_bytes() -> int:
        return int(free_host_bytes() * config.memory_utilization * KV_SHARE)

    if can_load(config):
        return load_native_runner(config, max_batch_tokens=MAX_BATCH_TOKENS, free_bytes=free_bytes)
    return load_runner(
        config,
        backend="cpu",
        device=torch.device("cpu"),
        hardware=torch.backends.cpu.get_cpu_capability().lower(),
        auto_dtype=lambda _: "float32",
        max_batch_tokens=MAX_BATCH_TOKENS,
        free_bytes=free_bytes,
    )
