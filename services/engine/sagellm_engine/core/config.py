"""How an engine is set up. The environment is read elsewhere, once."""

from dataclasses import dataclass, field
from pathlib import Path

from sagellm_common.errors import InvalidArgument


@dataclass(frozen=True, slots=True, kw_only=True)
class MockConfig:
    """The time model and size of the `mock` backend; times in milliseconds."""

    vocab_size: int = 1000
    step_base_ms: float = 0.0
    ms_per_prefill_token: float = 0.0
    ms_per_decode_seq: float = 0.0
    eos_token_id: int | None = None
    max_model_len: int = 32768


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """One engine.

    `backend` is `auto` or a name from the backend registry. `dtype` is `auto`, `float32`, `bfloat16` or `float16`.
    `max_model_len` None takes the model's own. The number of KV pages is `num_pages`, else what
    `kv_cache_memory_bytes` holds, else it follows from the free memory × `memory_utilization`. `max_batch_tokens` is
    the token budget of a step; None takes the backend's.

    On the CPU: `kernels` is `native` (our library), `torch` (its plain twin) or `auto` (native where it can be used).
    `quantization` is `int8`, `int4` or None, which keeps weights as the checkpoint has them. `kv_cache_dtype` is
    `float32`, `bfloat16`, `int8` or `auto`, which takes that of the computation. `num_threads` None takes all
    processors; `pin_threads` keeps each thread on one of them, None if there are as many threads as processors.
    """

    model_path: Path | None = None
    backend: str = "auto"
    device: str | None = None
    dtype: str = "auto"
    max_model_len: int | None = None
    max_num_seqs: int = 64
    max_batch_tokens: int | None = None
    max_waiting: int = 4096
    num_pages: int | None = None
    kv_cache_memory_bytes: int | None = None
    memory_utilization: float = 0.9
    prefix_cache: bool = True
    kernels: str = "auto"
    quantization: str | None = None
    kv_cache_dtype: str = "auto"
    num_threads: int | None = None
    pin_threads: bool | None = None
    mock: MockConfig = field(default_factory=MockConfig)

    def __post_init__(self) -> None:
        """Refuse values that cannot work, naming the setting."""
        for name in ("max_model_len", "max_num_seqs", "max_batch_tokens", "num_pages", "kv_cache_memory_bytes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidArgument(f"{name} is {value}; it must be at least 1", param=name)
        self._check_choice("kernels", self.kernels, ("auto", "native", "torch"))
        self._check_choice("quantization", self.quantization, (None, "int8", "int4"))
        self._check_choice("kv_cache_dtype", self.kv_cache_dtype, ("auto", "float32", "bfloat16", "int8"))
        if not 0.0 < self.memory_utilization <= 1.0:
            raise InvalidArgument("memory_utilization must be above 0 and at most 1", param="memory_utilization")
        if self.max_batch_tokens is not None and self.max_batch_tokens < self.max_num_seqs:
            raise InvalidArgument(
                f"max_batch_tokens ({self.max_batch_tokens}) is below max_num_seqs ({self.max_num_seqs}), so that not "
                "every running sequence could take a step; raise the one or lower the other",
                param="max_batch_tokens",
            )

    @staticmethod
    def _check_choice(name: str, value: str | None, known: tuple[str | None, ...]) -> None:
        if value not in known:
            listed = ", ".join(str(choice) for choice in known if choice is not None)
            raise InvalidArgument(f"{name} {value!r} is unknown; known are {listed}", param=name)
