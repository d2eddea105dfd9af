"""Since when we could have heard everybody: silence counts only while our own connection stood and we were awake."""

STALL_S = 0.5


class Watch:
    """The observer's own condition.

    A lost connection suspends all loss detection. A gap between two ticks, as when the machine was suspended or the
    event loop was busy, counts as such a time too: what arrived meanwhile may not have been looked at yet.
    """

    def __init__(self) -> None:
        self.since: float | None = None
        self._ticked_at: float | None = None

    def up(self, now: float) -> None:
        """The connection stands."""
        if self.since is None:
            self.since = now

    def down(self) -> None:
        """The connection is lost."""
        self.since = None

    def tick(self, now: float) -> None:
        """Note that we are awake; a long gap starts the watch anew."""
        if self.since is not None and self._ticked_at is not None and now - self._ticked_at > STALL_S:
            self.since = now
        self._ticked_at = now
