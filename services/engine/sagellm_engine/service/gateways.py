"""Which gateways are alive, judged by their heartbeats. Plain: no clock, no bus."""


class Gateways:
    """A gateway counts as lost after `timeout_s` without a sign of life, during which the own bus was up."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._last_seen: dict[str, float] = {}

    def __len__(self) -> int:
        """Return how many are believed to be alive."""
        return len(self._last_seen)

    def seen(self, gateway_id: str, now: float) -> None:
        """Note a sign of life."""
        self._last_seen[gateway_id] = now

    def silent(self, now: float, bus_up_s: float) -> list[str]:
        """Return those that have been silent too long; none while the own bus has not been up as long."""
        if bus_up_s < self._timeout_s:
            return []
        return [gateway for gateway, last in self._last_seen.items() if now - last >= self._timeout_s]

    def forget(self, gateway_id: str) -> None:
        """Stop watching a lost gateway; it is watched again when it is seen again."""
        self._last_seen.pop(gateway_id, None)
