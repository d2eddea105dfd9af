"""What the torch backends share: reading a model folder onto a device and sizing the KV cache."""

from collections.abc import Callable

import torch

from sagellm_common.errors import InvalidArgument, NotImplementedByServer
from sagellm_engine.attention.kinds import FAST, INVARIANT
from sagellm_engine.backends.memory import plan_pages
from sagellm_engine.backends.torch_runner import TorchPlace, TorchRunner
from sagellm_engine.core.config import EngineConfig
from sagellm_engine.core.types import ModelInfo
from sagellm_engine.kv.cache import KvCache, page_bytes
from sagellm_engine.kv.pool import PAGE_SIZE
from sagellm_engine.models.config import ModelConfig, read_model_config
from sagellm_engine.models.decoder import Decoder
from sagellm_engine.weights.checkpoint import Checkpoint
from sagellm_engine.weights.decoder import WeightLoader

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_runner(
    config: EngineConfig,
    *,
    backend: str,
    device: torch.device,
    hardware: str,
    auto_dtype: Callable[[ModelConfig], str],
    max_batch_tokens: int,
    free_bytes: Callable[[], int],
) -> TorchRunner:
    """Load a model folder; see `create_engine` for what is raised.

    `hardware` names what computes alike. `free_bytes` is asked after the weights are in.
    """
    if config.model_path is None:
        raise InvalidArgument(f"backend {backend!r} needs a model_path", param="model_path")
    if config.quantization is not None or config.kv_cache_dtype != "auto":
        raise NotImplementedByServer("quantization and kv_cache_dtype need the CPU kernels; see `kernels`")
    model = read_model_config(config.model_path)
    dtype_name = auto_dtype(model) if config.dtype == "auto" else config.dtype
    if dtype_name not in DTYPES:
        raise InvalidArgument(f"dtype {dtype_name!r} is unknown; known are auto, {', '.join(DTYPES)}", param="dtype")
    dtype, max_model_len = DTYPES[dtype_name], chosen_max_model_len(config, model)
    weights = WeightLoader(Checkpoint(config.model_path), model, dtype, device).load()
    place = TorchPlace(
        device=device,
        dtype=dtype,
        max_batch_tokens=config.max_batch_tokens or max_batch_tokens,
        attention=INVARIANT if device.type == "cpu" else FAST,
    )
    num_pages = plan_pages(
        config,
        page_bytes=page_bytes(model, dtype),
        free_bytes=free_bytes() - _activation_bytes(config, model, place, max_model_len),
        max_model_len=max_model_len,
    )
    info = ModelInfo(
        vocab_size=model.vocab_size,
        max_model_len=max_model_len,
        num_pages=num_pages,
        page_size=PAGE_SIZE,
        eos_token_ids=model.eos_token_ids,
        backend=backend,
        kind=f"{backend}-{hardware}-{dtype_name}-{model.family}",
    )
    cache = KvCache(model, num_pages, dtype, device)
    return TorchRunner(Decoder(model, weights, place.attention.attend), cache, info, place)


def chosen_max_model_len(config: EngineConfig, model: ModelConfig) -> int:
    """Return the longest request to serve; raises InvalidArgument if the model was not made for it."""
    if config.max_model_len is None:
        return model.max_position
    if config.max_model_len > model.max_position:
        raise InvalidArgument(
            f"max_model_len is {config.max_model_len}, but the model was made for {model.max_position} tokens at most",
            param="max_model_len",
        )
    return config.max_model_len


def _activation_bytes(config: EngineConfig, model: ModelConfig, place: TorchPlace, max_model_len: int) -> int:
    """Return what the largest step needs beside weights and pages: rows, a mask, logits and their copies."""
    width = 6 * model.hidden_size + 4 * model.intermediate_size + max_model_len
    rows = place.max_batch_tokens * width * place.dtype.itemsize
    return rows + 4 * config.max_num_seqs * model.vocab_size * torch.float32.itemsize
