"""Engines that could be had beside those that run, from a file."""

from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from sagellm_common.errors import InvalidArgument
from sagellm_scheduler.perf_model.capacity import Limits
from sagellm_scheduler.planner.sizing import Offer


class _Row(BaseModel):
    """One engine: its step times in seconds per step, prompt token, sequence and so on, and what it holds."""

    model_config = ConfigDict(extra="forbid")

    kind: str = Field(min_length=1)
    layout: str = ""
    price_per_hour: float = Field(default=1.0, ge=0)
    can_hand_over: bool = False
    base: float = Field(gt=0)
    prefill: float = Field(gt=0)
    decode: float = Field(gt=0)
    context: float = Field(default=0.0, ge=0)
    chunk_x_context: float = Field(default=0.0, ge=0)
    over_knee: float = Field(default=0.0, ge=0)
    knee: float = Field(default=float(1 << 30), gt=0)
    max_batch_tokens: float = Field(default=8192.0, gt=0)
    max_num_seqs: float = Field(default=256.0, gt=0)
    max_tokens: float = Field(gt=0)

    def offer(self) -> Offer:
        times = (self.base, self.prefill, self.decode, self.context, self.chunk_x_context, self.over_knee)
        limits = Limits(np.array(times), self.knee, self.max_batch_tokens, self.max_num_seqs, self.max_tokens)
        return Offer(self.kind, limits, self.price_per_hour, self.layout, self.can_hand_over)


_ROWS = TypeAdapter(list[_Row])


def read_offers(path: Path) -> tuple[Offer, ...]:
    """Read a list of engines: `kind`, `layout`, `price_per_hour`, `can_hand_over`, step times in seconds (`base`,
    `prefill`, `decode`, `context`, `chunk_x_context`, `over_knee`), `knee`, `max_batch_tokens`, `max_num_seqs` and
    `max_tokens` of KV pages.

    Raises InvalidArgument, naming what is at fault.
    """
    try:
        return tuple(row.offer() for row in _ROWS.validate_json(path.read_bytes()))
    except OSError as error:
        raise InvalidArgument(f"SAGELLM_PLAN_OFFERS: {path} cannot be read: {error}", param="plan_offers") from error
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in fault["loc"]) or "the file"
        raise InvalidArgument(f"SAGELLM_PLAN_OFFERS: {path}: {where}: {fault['msg']}", param="plan_offers") from error
