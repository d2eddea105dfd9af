"""What simulated engines are: their time model and their size."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from sagellm_common.contracts.engines import EngineRole
from sagellm_common.errors import InvalidArgument

PAGE_SIZE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """One kind of engine. With `kv_bytes_per_token` it hands prompts over, at `link_bytes_per_s` (200 Gbit/s).

    Times in seconds, as `t = base + prefill x tokens + decode x sequences + context x tokens of
    context + chunk_x_context x sum of chunk x context + over_knee x rows above the knee`.
    """

    kind: str
    base: float
    prefill: float
    decode: float
    context: float
    chunk_x_context: float
    over_knee: float = 0.0
    knee: int = 1 << 30
    num_pages: int
    max_batch_tokens: int = 8192
    max_num_seqs: int = 256
    max_model_len: int = 131_072
    price_per_hour: float = 1.0
    role: EngineRole = "hybrid"
    kv_bytes_per_token: int = 0
    link_bytes_per_s: float = 2.5e10

    def seconds(self, prefill: int, decode: int, context: int, products: int) -> float:
        """How long a step takes."""
        over = max(0, prefill + decode - self.knee)
        return (
            self.base
            + self.prefill * prefill
            + self.decode * decode
            + self.context * context
            + self.chunk_x_context * products
            + self.over_knee * over
        )


H200_8B = EngineSpec(
    kind="h200-8b",
    base=4.6e-3,
    prefill=0.0,
    decode=6e-6,
    context=3.4e-8,
    chunk_x_context=4.4e-10,
    over_knee=2.7e-5,
    knee=170,
    num_pages=48_000,
    max_batch_tokens=8192,
    max_num_seqs=256,
    price_per_hour=3.5,
    kv_bytes_per_token=131_072,
)
"""An 8B model in bf16 on an H200, by its limits, not measured: 16 GB of weights read at 75 % of 4.8 TB/s; 16 GFLOP a
row at 60 % of 990 TFLOP/s, hidden behind the weights up to 170 rows; 131 kB of keys and values a token read at 80 %;
attention of 32 layers of 4,096 at 300 TFLOP/s. 100 GB of KV pages."""

H100_8B = EngineSpec(
    kind="h100-8b",
    base=6.6e-3,
    prefill=0.0,
    decode=8e-6,
    context=4.9e-8,
    chunk_x_context=4.4e-10,
    over_knee=2.7e-5,
    knee=240,
    num_pages=19_000,
    price_per_hour=2.5,
    kv_bytes_per_token=131_072,
)
"""The same on an H100: 3.35 TB/s and 80 GB, of which 40 GB hold KV pages."""

L4_8B = EngineSpec(
    kind="l4-8b",
    base=3.6e-2,
    prefill=0.0,
    decode=8e-6,
    context=5.5e-7,
    chunk_x_context=3.6e-9,
    over_knee=2.2e-4,
    knee=160,
    num_pages=6_700,
    max_batch_tokens=512,
    max_num_seqs=128,
    price_per_hour=0.8,
)
"""An 8B model in 8 bits on an L4, by its limits, not measured: 8 GB of weights read at 75 % of 300 GB/s, 16 GFLOP a row
at 60 % of 121 TFLOP/s, 14 GB of KV pages."""

MOCK = EngineSpec(
    kind="mock",
    base=8e-3,
    prefill=1e-4,
    decode=2e-4,
    context=0.0,
    chunk_x_context=0.0,
    num_pages=65_536,
    kv_bytes_per_token=8,
)

SPECS = {spec.kind: spec for spec in (H200_8B, H100_8B, L4_8B, MOCK)}
MOST_ENGINES = 10_000


def parse_engines(text: str) -> tuple[EngineSpec, ...]:
    """Read `4*h200-8b,2*my-kind.json`: counts, and kinds that are known or described in a JSON file; a role may follow,
    as in `2*h200-8b:prefill,2*h200-8b:decode`.

    Raises InvalidArgument, listing the known kinds, for anything else.
    """
    engines: list[EngineSpec] = []
    for part in text.split(","):
        count, _, kind = part.strip().rpartition("*")
        if not (count or "1").isdigit() or not 1 <= int(count or "1") <= MOST_ENGINES:
            raise InvalidArgument(f"engines: {part!r} does not begin with a count, as in 4*h200-8b", param="engines")
        name, _, role = kind.partition(":")
        engines += [replace(_spec(name), role=_role(role or "hybrid"))] * int(count or "1")
    return tuple(engines)


def _role(name: str) -> EngineRole:
    for role in get_args(EngineRole):
        if role == name:
            known: EngineRole = role
            return known
    raise InvalidArgument(
        f"there is no role {name!r} of engines; known are {', '.join(get_args(EngineRole))}", param="engines"
    )


def _spec(kind: str) -> EngineSpec:
    if kind in SPECS:
        return SPECS[kind]
    path = Path(kind)
    if path.suffix == ".json" and path.is_file():
        try:
            return EngineSpec(**{"kind": path.stem, **json.loads(path.read_text())})
        except (ValueError, TypeError) as error:
            raise InvalidArgument(f"{path} does not describe an engine: {error}", param="engines") from error
    raise InvalidArgument(f"there is no kind of engine {kind!r}; known are {', '.join(SPECS)}", param="engines")
