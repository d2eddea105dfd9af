"""The seam of the policies that separate prefill and decode, and their names."""

from dataclasses import dataclass
from typing import Protocol

from sagellm_common.contracts.scheduling import Submit
from sagellm_scheduler.plugins import Registry


@dataclass(frozen=True, slots=True)
class Prospects:
    """What is expected of a request if it is served one way or the other; seconds.

    `ttft_s` from the gateway's acceptance to the first token, `itl_s` from token to token, `missed` how many SLOs will
    be missed for it, its own and others', `added_s` by how much all their times together grow.
    """

    ttft_s: float
    itl_s: float
    missed: float
    added_s: float


@dataclass(frozen=True, slots=True)
class Alternatives:
    """The best that can be had: on one engine, and with prefill and decode `apart`.

    `answer` is the number of tokens that the answer is expected to have, `num_seen` how many hand-offs the predictions
    have been learnt from.
    """

    whole: Prospects
    apart: Prospects
    answer: float
    num_seen: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether to separate, and why, in words for a person."""

    is_apart: bool
    reason: str


class SeparationPolicy(Protocol):
    """Decides for each request. `separate` must not block; it may keep state of its own.

    `predicts`: pairs of engines are compared by what is predicted for them, else by their load.
    """

    name: str
    predicts: bool

    def separate(self, submit: Submit, alternatives: Alternatives) -> Verdict:
        """Return whether another engine shall prefill the request."""
        ...


SEPARATION_POLICIES: Registry[SeparationPolicy] = Registry(
    "pd policy",
    {
        "off": "sagellm_scheduler.separation.off:Off",
        "threshold": "sagellm_scheduler.separation.threshold:Threshold",
        "adaptive": "sagellm_scheduler.separation.adaptive:Adaptive",
    },
)
