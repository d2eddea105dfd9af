"""Live settings of the scheduler, kept in the bucket `policy` under the key `scheduler`."""

from sagellm_common.contracts.base import Message

LEADER_TTL_S = 2.0
"""Time to live of the lease in seconds; whoever opens the bucket first sets it, so that all must agree."""


class Policy(Message):
    """Which queue policy and which router decide, and which policy whether prefill and decode are separated."""

    queue: str = "slo_aware"
    router: str = "predictive"
    pd: str = "adaptive"


class PolicyChange(Message):
    """Change what is set, keep the rest; an empty change reads the policy."""

    queue: str | None = None
    router: str | None = None
    pd: str | None = None


class PolicyReply(Message):
    """The policy in force, and the names that may be chosen."""

    policy: Policy
    known_queues: list[str]
    known_routers: list[str]
    known_pd: list[str] = []


class Leader(Message):
    """Value of the lease in the bucket `leader` under the key `scheduler`."""

    scheduler_id: str
    started_at: float
