"""How patient the core is; all times in seconds."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreConfig:
    """Limits and intervals of the request lifecycle.

    `silence_s`: without an assignment for so long, the description is submitted again, then whenever the wait has
    doubled, and at least every `max_silence_s`. `place_timeout_s`: how long a leader may be missing before a request is
    given up. `engine_timeout_s`: an engine that does not report for so long is lost; the scheduler judges by the same
    value, the gateway waits `engine_grace_s` longer. `stall_s`: ticks that are further apart mean that the gateway
    itself stood still. `max_idle_epochs`: epochs in a row that bring no token before the request fails. `probe_s`: how
    long a stream may be silent before the engine is asked for it. `max_resends`: unanswered repairs before the engine
    counts as failed.
    """

    silence_s: float = 2.0
    max_silence_s: float = 10.0
    place_timeout_s: float = 10.0
    engine_timeout_s: float = 2.0
    engine_grace_s: float = 1.0
    stall_s: float = 0.5
    max_idle_epochs: int = 5
    backoff_s: float = 0.05
    max_backoff_s: float = 1.0
    probe_s: float = 5.0
    max_resends: int = 5
    slow_client_timeout_s: float = 30.0

    def patience(self, queued_s: float) -> float:
        """Wait before the leader is asked once more about a request that it has had in its queue for so long."""
        return min(max(queued_s, self.silence_s), self.max_silence_s)

    def backoff(self, attempt: int) -> float:
        """Wait before attempt number `attempt`, counted from 1: doubling, up to the maximum."""
        return float(min(self.backoff_s * 2 ** min(attempt - 1, 20), self.max_backoff_s))
