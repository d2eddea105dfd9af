"""The gateways: who lives, and whose open requests are known."""

from dataclasses import dataclass

ASK_AGAIN_S = 1.0


@dataclass(slots=True)
class Gateway:
    """One gateway incarnation. `is_learnt`: its open requests have been learnt under our leadership."""

    gateway_id: str
    incarnation: str
    seen_at: float
    is_learnt: bool = False
    asked_at: float | None = None


class Gateways:
    """The gateways by id, known by their heartbeats."""

    def __init__(self) -> None:
        self._gateways: dict[str, Gateway] = {}

    def ids(self) -> list[str]:
        return list(self._gateways)

    def seen(self, gateway_id: str, incarnation: str, now: float) -> Gateway | None:
        """Take a heartbeat; returns the former incarnation, whose requests have died with it, if there was one."""
        gateway = self._gateways.get(gateway_id)
        if gateway is not None and gateway.incarnation == incarnation:
            gateway.seen_at = now
            return None
        self._gateways[gateway_id] = Gateway(gateway_id, incarnation, now)
        return gateway

    def silent(self, now: float, watching_since: float, timeout_s: float) -> list[str]:
        """Forget, and return, the gateways unheard for a whole timeout in which we could have heard them."""
        gone = [
            gateway.gateway_id
            for gateway in self._gateways.values()
            if now - max(gateway.seen_at, watching_since) >= timeout_s
        ]
        for gateway_id in gone:
            del self._gateways[gateway_id]
        return gone

    def learnt(self, gateway_id: str) -> None:
        """Note that a gateway has told its open requests."""
        gateway = self._gateways.get(gateway_id)
        if gateway is not None:
            gateway.is_learnt = True

    def forget_learnt(self) -> None:
        """Ask all of them anew, as leadership begins."""
        for gateway in self._gateways.values():
            gateway.is_learnt, gateway.asked_at = False, None

    def to_ask(self, now: float) -> list[str]:
        """Return those to be asked now: not learnt yet, and not asked within the last second."""
        due = [g for g in self._gateways.values() if not g.is_learnt and _may_ask(g, now)]
        for gateway in due:
            gateway.asked_at = now
        return [gateway.gateway_id for gateway in due]


def _may_ask(gateway: Gateway, now: float) -> bool:
    return gateway.asked_at is None or now - gateway.asked_at >= ASK_AGAIN_S
