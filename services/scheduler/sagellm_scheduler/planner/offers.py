"""Engines that could be had beside those that run, from a file."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from sagellm_common.errors import InvalidArgument
from sagellm_scheduler.perf_model.capacity import Limits
from sagellm_scheduler.planner.sizing import Offer

TIMES = ("base", "prefill", "decode", "context", "chunk_x_context", "over_knee")


def read_offers(path: Path) -> tuple[Offer, ...]:
    """Read a list of engines: `kind`, `layout`, `price_per_hour`, `can_hand_over`, step times in seconds (`base`,
    `prefill`, `decode`, `context`, `chunk_x_context`, `over_knee`), `knee`, `max_batch_tokens`, `max_num_seqs` and
    `max_tokens` of KV pages.

    Raises InvalidArgument, naming what is at fault.
    """
    try:
        return tuple(_offer(dict(row)) for row in json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidArgument(f"{path} does not describe engines: {error!r}", param="plan_offers") from error


def _offer(row: dict[str, Any]) -> Offer:
    limits = Limits(
        np.array([float(row.get(name, 0.0)) for name in TIMES]),
        float(row.get("knee", 1 << 30)),
        float(row.get("max_batch_tokens", 8192)),
        float(row.get("max_num_seqs", 256)),
        float(row["max_tokens"]),
    )
    return Offer(
        kind=str(row["kind"]),
        limits=limits,
        price_per_hour=float(row.get("price_per_hour", 1.0)),
        layout=str(row.get("layout", "")),
        can_hand_over=bool(row.get("can_hand_over", False)),
    )
