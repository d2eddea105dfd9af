"""The seam of the routers, and their names."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sagellm_common.contracts.scheduling import Submit
from sagellm_scheduler.plugins import Registry

PATIENCE = 4.0


class Ids(Protocol):
    """Engine ids by candidate index; a list is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> str: ...


@dataclass(frozen=True, slots=True)
class Candidates:
    """Engines that can run the request whole and have room, at least one; all arrays have shape [n].

    `load` is the share of sequence slots plus the share of KV tokens that is taken, 0 to about 2. `last_turn` grows
    with each assignment of an engine, 0 if it has had none. `hashes` are stable 64-bit hashes of the engine ids.

    What the performance model expects: `ttft_s` from the gateway's acceptance to the first token, `itl_s` mean from
    token to token, `cached` tokens of the prompt in the engine's cache, `missed` how many SLOs will be missed for it,
    its own and those of the requests that run there, `added_s` by how much all their times together grow.
    """

    engine_ids: Ids
    load: NDArray[np.float64]
    last_turn: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    ttft_s: NDArray[np.float64]
    itl_s: NDArray[np.float64]
    cached: NDArray[np.float64]
    missed: NDArray[np.float64]
    added_s: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.load)

    def least_loaded(self) -> int:
        """Index of the smallest load; among equals the one that has waited longest for a request."""
        return self.least(self.load)

    def least(self, figures: NDArray[np.float64]) -> int:
        """Index of the smallest figure; among equals the engine that has waited longest for a request."""
        ties = (figures <= figures.min() + 1e-9).nonzero()[0]
        return int(ties[self.last_turn[ties].argmin()])


@dataclass(frozen=True, slots=True)
class Choice:
    """Index of the chosen candidate, and why, in words for a person."""

    index: int
    reason: str


class Router(Protocol):
    """Chooses an engine. `choose` must not block and must not change its arguments; it may keep state of its own.

    One with an attribute `patience` is offered busy engines, too, whose caches save much: by so many times what they
    save, in time, may be longer what waits there. More than one pays, since what comes after a request will find its
    prompt there, and what it would have pushed out elsewhere stays.
    """

    name: str

    def choose(self, submit: Submit, candidates: Candidates) -> Choice:
        """Return one of the candidates."""
        ...


ROUTERS: Registry[Router] = Registry(
    "router",
    {
        "load_balanced": "sagellm_scheduler.routing.load_balanced:LoadBalanced",
        "round_robin": "sagellm_scheduler.routing.round_robin:RoundRobin",
        "random": "sagellm_scheduler.routing.random_choice:RandomChoice",
        "affinity": "sagellm_scheduler.routing.affinity:Affinity",
        "locality": "sagellm_scheduler.routing.locality:Locality",
        "cache_aware": "sagellm_scheduler.routing.cache_aware:CacheAware",
        "predictive": "sagellm_scheduler.routing.predictive:Predictive",
    },
)
