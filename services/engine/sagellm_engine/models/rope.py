"""Rotary position embedding: which frequencies a configuration asks for (Su et al. 2021, arXiv:2104.09864)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sagellm_common.errors import NotImplementedByServer

SUPPORTED = ("default", "linear", "llama3")


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """Base frequency and scaling. The last three fields belong to `llama3` alone."""

    theta: float = 10000.0
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 8192


def parse_rope(raw: Mapping[str, Any]) -> RopeConfig:
    """Read `rope_parameters`, or `rope_theta` with `rope_scaling` as older files have them.

    Raises NotImplementedByServer for a scaling that is not offered.
    """
    scaling = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind not in SUPPORTED:
        raise NotImplementedByServer(f"rope scaling {kind!r} is not supported; supported are {', '.join(SUPPORTED)}")
    if raw.get("partial_rotary_factor", scaling.get("partial_rotary_factor", 1.0)) != 1.0:
        raise NotImplementedByServer("a partial rotary embedding is not supported")
    return RopeConfig(
        theta=float(scaling.get("rope_theta") or raw.get("rope_theta") or 10000.0),
        kind=kind,
        factor=float(scaling.get("factor", 1.0)),
        low_freq_factor=float(scaling.get("low_freq_factor", 1.0)),
        high_freq_factor=float(scaling.get("high_freq_factor", 4.0)),
        original_max_position=int(scaling.get("original_max_position_embeddings", 8192)),
    )


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> list[float]:
    """Return the rotation per position, in radians, of each of the head_dim / 2 pairs."""
    plain = [rope.theta ** (-2 * i / head_dim) for i in range(head_dim // 2)]
    if rope.kind == "linear":
        return [frequency / rope.factor for frequency in plain]
    if rope.kind == "llama3":
        return [_llama3(frequency, rope) for frequency in plain]
    return plain


def _llama3(frequency: float, rope: RopeConfig) -> float:
    """Slow rotations are stretched, fast ones kept, those between blended (Llama 3.1's `apply_scaling`)."""
    turns = rope.original_max_position * frequency / (2 * math.pi)
    keep = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    keep = min(max(keep, 0.0), 1.0)
    return keep * frequency + (1 - keep) * frequency / rope.factor
