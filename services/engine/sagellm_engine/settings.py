"""Settings of an engine process, read once from the environment (prefix `SAGELLM_`)."""

import os
import socket
import uuid

from pydantic import Field, field_validator

from sagellm_common.contracts.engines import EngineRole
from sagellm_common.settings import ServiceSettings
from sagellm_engine.core.config import EngineConfig, MockConfig
from sagellm_engine.transfer.nixl_transport import MISSING, is_installed
from sagellm_engine.transfer.registry import TRANSPORTS

BUILTIN_MODEL = "sage-tiny"
MOCK_MODEL = "mock-model"


def _default_engine_id() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"


class EngineSettings(ServiceSettings):
    """One engine. Sizes that are not set follow from the model, the device and the free memory."""

    engine_id: str = Field(default_factory=_default_engine_id, min_length=1, max_length=128)
    engine_role: EngineRole = "hybrid"
    model: str | None = Field(default=None, description="model id or local folder; none: the built-in model")
    served_model_name: str | None = Field(default=None, description="name that requests use; none: the model's own")
    backend: str = Field(default="auto", description="auto, cpu, cuda, mock, or one that a package provides")
    dtype: str = Field(default="auto", description="auto, float32, bfloat16 or float16")
    max_model_len: int | None = Field(default=None, ge=1, description="tokens of prompt and output together")
    max_num_seqs: int = Field(default=64, ge=1, description="sequences in one step")
    max_batch_tokens: int | None = Field(default=None, ge=1, description="tokens in one step")
    max_waiting: int = Field(default=4096, ge=1, description="sequences that may wait; more are refused")
    num_pages: int | None = Field(default=None, ge=1, description="KV pages; none: what the memory holds")
    kv_cache_memory_bytes: int | None = Field(default=None, ge=1)
    gpu_memory_utilization: float = Field(default=0.9, gt=0.0, le=1.0)
    kernels: str = Field(default="auto", description="on a CPU: native, torch, or auto")
    quantization: str | None = Field(default=None, description="on a CPU: int8, int4; none: as the checkpoint has it")
    kv_cache_dtype: str = Field(default="auto", description="on a CPU: auto, float32, bfloat16 or int8")
    threads: int | None = Field(default=None, ge=1, description="threads for computing")
    enable_prefix_cache: bool = True
    mock_step_ms: float = Field(default=0.0, ge=0.0)
    mock_prefill_ms_per_token: float = Field(default=0.0, ge=0.0)
    mock_decode_ms_per_seq: float = Field(default=0.0, ge=0.0)
    mock_vocab_size: int = Field(default=3072, ge=2, description="size of the tokenizer in use")
    kv_transfer: str = Field(
        default="auto",
        description="how keys and values go from engine to engine: nixl, none, or `package.module:Class` of "
        "a transport of your own; auto: nixl, if it is installed, for the roles prefill and decode",
    )
    price_per_hour: float = Field(default=1.0, ge=0.0, description="what an hour of this engine costs, in any currency")
    heartbeat_s: float = Field(default=0.5, gt=0.0)
    gateway_timeout_s: float = Field(default=5.0, gt=0.0, description="a gateway silent for so long is gone")
    drain_timeout_s: float = Field(default=30.0, ge=0.0, description="how long running requests may take at the end")
    metrics_port: int | None = Field(default=None, ge=0, le=65535, description="port for /metrics; 0: any free one")

    @field_validator("kv_transfer")
    @classmethod
    def _known_transfer(cls, name: str) -> str:
        if name not in ("auto", "none", *TRANSPORTS) and ":" not in name:
            known = ", ".join(sorted(TRANSPORTS))
            raise ValueError(f"there is no transport {name!r}; known are auto, none, {known}")
        return name

    @property
    def transport(self) -> str:
        """Name of the transport for keys and values, empty for none."""
        if self.kv_transfer == "auto":
            return "nixl" if self.engine_role != "hybrid" and is_installed() else ""
        return "" if self.kv_transfer == "none" else self.kv_transfer

    @property
    def warning(self) -> str:
        """What an operator should know before the engine starts; empty if nothing."""
        is_alone = self.engine_role != "hybrid" and not self.transport
        return f"an engine of the role {self.engine_role} hands nothing over: {MISSING}" if is_alone else ""

    @property
    def model_name(self) -> str:
        """The id or folder to load."""
        return self.model or (MOCK_MODEL if self.backend == "mock" else BUILTIN_MODEL)

    def core_config(self) -> EngineConfig:
        """The core's configuration, still without the model's folder; raises InvalidArgument."""
        return EngineConfig(
            backend=self.backend,
            dtype=self.dtype,
            max_model_len=self.max_model_len,
            max_num_seqs=self.max_num_seqs,
            max_batch_tokens=self.max_batch_tokens,
            max_waiting=self.max_waiting,
            num_pages=self.num_pages,
            kv_cache_memory_bytes=self.kv_cache_memory_bytes,
            memory_utilization=self.gpu_memory_utilization,
            prefix_cache=self.enable_prefix_cache,
            kernels=self.kernels,
            quantization=self.quantization,
            kv_cache_dtype=self.kv_cache_dtype,
            num_threads=self.threads,
            mock=MockConfig(
                vocab_size=self.mock_vocab_size,
                step_base_ms=self.mock_step_ms,
                ms_per_prefill_token=self.mock_prefill_ms_per_token,
                ms_per_decode_seq=self.mock_decode_ms_per_seq,
            ),
        )
