"""Registration of an engine in the bucket `engines`."""

from typing import Literal

from pydantic import Field

from sagellm_common.contracts.base import Message

EngineRole = Literal["hybrid", "prefill", "decode"]
ENGINES_TTL_S = 10.0
"""Time to live of the bucket's entries in seconds; whoever opens the bucket first sets it, so that all must agree."""


class EngineRegistration(Message):
    """What an engine is and can do; renewed while it lives, gone when the bucket's time to live is over.

    `kind` names engines that compute alike (backend, device, precision, model revision): a stream continues
    identically only on an engine of the same kind.
    """

    engine_id: str
    incarnation: str
    role: EngineRole = "hybrid"
    models: tuple[str, ...]
    backend: str
    kind: str
    max_model_len: int
    page_size: int
    num_pages: int
    max_num_seqs: int
    max_batch_tokens: int
    price_per_hour: float = Field(default=1.0, description="what an hour of it costs, in the operator's currency")
    heartbeat_s: float = 0.5
    host: str = ""
    pid: int = 0
    version: str = ""
    started_at: float = Field(default=0.0, description="seconds since the epoch")
    state: Literal["ready", "draining"] = "ready"
    model_id: str = Field(default="", description="the registry's name of the model; empty for a local folder")
    benchmark: tuple[tuple[float, int, int, int, int, int], ...] = Field(
        default=(),
        description="steps measured at the start: duration_s, rows, prefill_tokens, decode_seqs, context_tokens, "
        "chunk_x_context",
    )
    model_path: str = Field(default="", description="folder of a local model, for gateways that share the disk")
    handoff: str = Field(
        default="", description="engines with the same value hand prefilled prompts over to each other; empty: never"
    )
    kv_bytes_per_token: int = Field(default=0, description="what a token's keys and values take")
