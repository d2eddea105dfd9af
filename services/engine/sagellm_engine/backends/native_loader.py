"""Reading a model folder into our CPU kernels."""

from collections.abc import Callable

from sagellm_common.errors import InvalidArgument, NotImplementedByServer, Unavailable
from sagellm_engine.backends.memory import plan_pages
from sagellm_engine.backends.native_runner import NativeRunner
from sagellm_engine.backends.torch_loader import chosen_max_model_len
from sagellm_engine.core.config import EngineConfig
from sagellm_engine.core.types import ModelInfo
from sagellm_engine.kv.pool import PAGE_SIZE
from sagellm_engine.models.config import ModelConfig, read_model_config
from sagellm_engine.native.abi import Compute, KvKind, WeightKind
from sagellm_engine.native.kv import NativeKv, page_bytes
from sagellm_engine.native.library import isa, library, set_threads, why_missing
from sagellm_engine.native.model import NativeModel, why_unsupported
from sagellm_engine.native.packing import packed_model, stored_kind
from sagellm_engine.processors import PROCESSORS

QUANTIZED = {"int8": WeightKind.INT8, "int4": WeightKind.INT4}
DTYPES = ("auto", "float32", "bfloat16")
KV_KINDS = {"float32": KvKind.F32, "bfloat16": KvKind.BF16, "int8": KvKind.INT8}
LOGITS_BYTES = 4


def can_load(config: EngineConfig) -> bool:
    """Return whether the kernels serve this configuration.

    Raises Unavailable or NotImplementedByServer, saying why, where the configuration insists on them and they cannot.
    """
    if config.kernels == "torch":
        return False
    insists = config.kernels == "native" or config.quantization is not None
    missing = why_missing()
    if missing is not None:
        if insists:
            raise Unavailable(f"the CPU kernels cannot be used: {missing}", param="kernels")
        return False
    if config.model_path is None:
        return False
    unsupported = why_unsupported(read_model_config(config.model_path))
    if config.dtype not in DTYPES:
        unsupported = f"dtype {config.dtype!r} is not one of {', '.join(DTYPES)}"
    if unsupported is not None and insists:
        raise NotImplementedByServer(f"the CPU kernels cannot run this model: {unsupported}")
    return unsupported is None


def load_native_runner(config: EngineConfig, *, max_batch_tokens: int, free_bytes: Callable[[], int]) -> NativeRunner:
    """Load a model folder; see `create_engine` for what is raised. `free_bytes` is asked after the weights are in."""
    if config.model_path is None:
        raise InvalidArgument("backend 'cpu' needs a model_path", param="model_path")
    _start_threads(config)
    model = read_model_config(config.model_path)
    weight_kind = QUANTIZED[config.quantization] if config.quantization else stored_kind(config.model_path, model)
    compute = _compute(config, model, weight_kind)
    kv_kind = _kv_kind(config, compute)
    max_model_len = chosen_max_model_len(config, model)
    packed = packed_model(config.model_path, model, weight_kind)
    batch_tokens = config.max_batch_tokens or max_batch_tokens
    activations = _activation_bytes(config, model, batch_tokens)
    num_pages = plan_pages(
        config,
        page_bytes=page_bytes(model, kv_kind),
        free_bytes=free_bytes() - activations,
        max_model_len=max_model_len,
    )
    info = ModelInfo(
        vocab_size=model.vocab_size,
        max_model_len=max_model_len,
        num_pages=num_pages,
        page_size=PAGE_SIZE,
        eos_token_ids=model.eos_token_ids,
        backend="cpu",
        kind="-".join(("cpu", isa(), weight_kind.name, compute.name, "kv", kv_kind.name, model.family)).lower(),
    )
    native = NativeModel(model, weight_kind, compute, packed, NativeKv(model, num_pages, kv_kind))
    native.reserve(batch_tokens, config.max_num_seqs)
    return NativeRunner(native, info, batch_tokens)


def _start_threads(config: EngineConfig) -> None:
    threads = config.num_threads or len(PROCESSORS)
    pin = threads == len(PROCESSORS) if config.pin_threads is None else config.pin_threads
    set_threads(threads, PROCESSORS if pin else ())


def _compute(config: EngineConfig, model: ModelConfig, weights: WeightKind) -> Compute:
    """Return how activations enter products: in bf16 for bf16 weights, where the processor has units for it."""
    if config.quantization is not None:
        return Compute.INT8
    wanted = model.checkpoint_dtype if config.dtype == "auto" else config.dtype
    has_units = weights is WeightKind.BF16 and library().sage_has_bf16()
    return Compute.BF16 if wanted == "bfloat16" and has_units else Compute.F32


def _kv_kind(config: EngineConfig, compute: Compute) -> KvKind:
    if config.kv_cache_dtype != "auto":
        return KV_KINDS[config.kv_cache_dtype]
    return KvKind.F32 if compute is Compute.F32 else KvKind.BF16


def _activation_bytes(config: EngineConfig, model: ModelConfig, batch_tokens: int) -> int:
    """Return what the largest step needs beside weights and pages: rows, logits and the sampler's copies."""
    heads = (model.num_heads + 2 * model.num_kv_heads) * model.head_dim
    width = model.hidden_size + heads + 3 * max(model.intermediate_size, heads)
    return batch_tokens * width * 4 + 4 * config.max_num_seqs * model.vocab_size * LOGITS_BYTES
