"""The lease as a state machine: when to try, when to renew, when to stop acting; no clock, no bus.

The bucket's own time to live removes a lease that is not renewed. A holder renews it by an update that names the last
revision, a standby takes it by creating it. The leader epoch is the creation time of the bucket's stream and the
revision of the create, so it grows with every change of leadership, even if the bucket is made anew.
"""

from dataclasses import dataclass

from sagellm_common.contracts.base import LeaderEpoch
from sagellm_common.contracts.policy import LEADER_TTL_S


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaseConfig:
    """Times in seconds; the holder stops acting `margin_s` before the bucket can have removed its lease."""

    ttl_s: float = LEADER_TTL_S
    margin_s: float = 0.5
    renew_every_s: float = 0.5
    try_every_s: float = 0.25


@dataclass(frozen=True, slots=True)
class Due:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The bucket has answered the last Create or Update: `revision`, or None if somebody else has the lease."""

    revision: int | None
    created_ns: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The bucket could not be reached for the last Create or Update; whether it took place is unknown."""


@dataclass(frozen=True, slots=True)
class Create:
    """Try to take the lease; answer with Answered or Failed."""


@dataclass(frozen=True, slots=True)
class Update:
    """Renew the lease that has `revision`; answer with Answered or Failed."""

    revision: int


@dataclass(frozen=True, slots=True)
class Gained:
    """We lead from now on."""

    leader_epoch: LeaderEpoch


@dataclass(frozen=True, slots=True)
class Lost:
    """We lead no longer."""

    reason: str


LeaseEvent = Due | Answered | Failed
LeaseAction = Create | Update | Gained | Lost


class LeaseCore:
    """Holds at most one call to the bucket open at a time; `handle` takes a `now` that never decreases, in seconds."""

    def __init__(self, config: LeaseConfig) -> None:
        self._config = config
        self._revision: int | None = None
        self._valid_until = 0.0
        self._asked_at: float | None = None
        self._next_at = 0.0

    def is_valid(self, now: float) -> bool:
        """Whether we lead at `now`, by our own clock."""
        return self._revision is not None and now < self._valid_until

    def handle(self, event: LeaseEvent, now: float) -> list[LeaseAction]:
        """Take one event and return what is to be done, in order."""
        actions = self._expire(now)
        if isinstance(event, Due):
            actions += self._try(now)
        elif isinstance(event, Failed):
            self._settle(now)
        else:
            actions += self._answered(event, now)
        return actions

    def _expire(self, now: float) -> list[LeaseAction]:
        if self._revision is None or self.is_valid(now):
            return []
        self._revision = None
        return [Lost("the lease could not be renewed in time")]

    def _try(self, now: float) -> list[LeaseAction]:
        if self._asked_at is not None or now < self._next_at:
            return []
        self._asked_at = now
        return [Create() if self._revision is None else Update(self._revision)]

    def _settle(self, now: float) -> float:
        """Close the open call; returns when it was made."""
        asked_at = now if self._asked_at is None else self._asked_at
        self._asked_at, self._next_at = None, now + self._config.try_every_s
        return asked_at

    def _answered(self, event: Answered, now: float) -> list[LeaseAction]:
        asked_at, was_leading = self._settle(now), self._revision is not None
        if event.revision is None:
            self._revision = None
            return [Lost("another scheduler has the lease")] if was_leading else []
        self._valid_until = asked_at + self._config.ttl_s - self._config.margin_s
        if now >= self._valid_until:
            return []
        self._revision, self._next_at = event.revision, asked_at + self._config.renew_every_s
        return [] if was_leading else [Gained((event.created_ns, event.revision))]
