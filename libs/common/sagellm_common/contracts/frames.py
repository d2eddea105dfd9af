"""Token frames: one message per engine step and gateway. Hot: packed as arrays."""

from dataclasses import dataclass, field
from typing import Any

from sagellm_common.contracts.packed import Packed

# One token's log-probabilities: [logprob of the chosen token, [[token id, logprob], ...] of the alternatives]
PackedLogprob = list[Any]


@dataclass(slots=True)
class TokenItem(Packed):
    """New tokens of one choice of a request; `first_index` is the position of the first one in the output.

    With `finish` ("stop", "length", "cancelled", "error") nothing follows for this choice. `error` is the wire form
    of an error. `cached_tokens` is set with the first tokens: prompt tokens found in the prefix cache; so is
    `transfer_ms` where another engine has prefilled: from its last page to the whole prompt here.
    """

    request_id: str
    epoch: int
    choice: int
    first_index: int
    token_ids: list[int]
    logprobs: list[PackedLogprob] | None = None
    finish: str | None = None
    error: dict[str, Any] | None = None
    cached_tokens: int = 0
    transfer_ms: float | None = None


@dataclass(slots=True)
class TokenFrame(Packed):
    """What one step of an engine made for one gateway; `number` counts the frames of this engine to this gateway."""

    engine_id: str
    incarnation: str
    number: int
    items: list[TokenItem] = field(default_factory=list)
