"""The `cuda` backend: plain torch on an NVIDIA GPU, or on an AMD one through torch's ROCm build."""

import torch

from sagellm_common.errors import InvalidArgument
from sagellm_engine.backends.torch_loader import DTYPES, load_runner
from sagellm_engine.backends.torch_runner import TorchRunner
from sagellm_engine.core.config import EngineConfig
from sagellm_engine.models.config import ModelConfig

MAX_BATCH_TOKENS = 4096


def missing() -> str | None:
    """Return what stands in the way of CUDA."""
    return None if torch.cuda.is_available() else "torch sees no CUDA device"


def load(config: EngineConfig) -> TorchRunner:
    """Load a model into the GPU's memory, in the checkpoint's own precision unless told otherwise."""
    device = _device(config.device or "cuda")
    return load_runner(
        config,
        backend="cuda",
        device=device,
        hardware=torch.cuda.get_device_name(device).lower().replace(" ", "_"),
        auto_dtype=_checkpoint_dtype,
        max_batch_tokens=MAX_BATCH_TOKENS,
        free_bytes=lambda: _free_bytes(device, config.memory_utilization),
    )


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidArgument(f"{name!r} names no device", param="device") from error
    if device.type != "cuda" or (device.index or 0) >= torch.cuda.device_count():
        raise InvalidArgument(f"{name!r} is not one of {torch.cuda.device_count()} CUDA devices", param="device")
    return device


def _checkpoint_dtype(model: ModelConfig) -> str:
    return model.checkpoint_dtype if model.checkpoint_dtype in DTYPES else "bfloat16"


def _free_bytes(device: torch.device, utilization: float) -> int:
    """Return what may be spent of the GPU, such that `utilization` of it is in use in all."""
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    return int(free - total * (1.0 - utilization))
