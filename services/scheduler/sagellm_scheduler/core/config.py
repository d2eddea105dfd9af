"""What the scheduler core is set to."""

from dataclasses import dataclass, field

from sagellm_common.blocks import BLOCK_TOKENS
from sagellm_common.contracts.slo import NO_SLO, Slo
from sagellm_scheduler.queueing.policy import QueuePolicy
from sagellm_scheduler.routing.router import Router
from sagellm_scheduler.separation.adaptive import Adaptive
from sagellm_scheduler.separation.policy import SeparationPolicy


@dataclass(frozen=True, kw_only=True, slots=True)
class CoreConfig:
    """Settings of one scheduler core; times in seconds.

    `wall_offset_s` added to the core's clock gives seconds since the epoch, for the records. Metrics older than
    `stale_after_s` give way to our own accounting of what is in flight. A request for which no engine is ready waits
    `no_engine_timeout_s` at most. An engine that is gone keeps its models known for `remember_engine_s`. `default_slo`
    holds for what a request does not state. An engine is given no more than `backlog_s` seconds of prefill to come. An
    index block of the prefix caches has `block_tokens`. A request whose first token is expected more than
    `admission_slack` times later than it states is refused; None refuses none.
    """

    scheduler_id: str
    queue: QueuePolicy
    router: Router
    separation: SeparationPolicy = field(default_factory=Adaptive)
    wall_offset_s: float = 0.0
    max_queue: int = 10_000
    max_queue_time_s: float = 60.0
    engine_timeout_s: float = 2.0
    dispatch_timeout_s: float = 2.0
    gateway_timeout_s: float = 5.0
    no_engine_timeout_s: float = 15.0
    stale_after_s: float = 1.0
    reconcile_every_s: float = 10.0
    remember_engine_s: float = 60.0
    default_slo: Slo = NO_SLO
    backlog_s: float = 0.1
    block_tokens: int = BLOCK_TOKENS
    admission_slack: float | None = 1.0
