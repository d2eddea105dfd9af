"""Token frames: one message per step and gateway, in several if the bus would not take it in one."""

from collections import Counter
from collections.abc import Iterator

import structlog

from sagellm_common.bus import Bus
from sagellm_common.codec import encode
from sagellm_common.contracts.frames import TokenFrame, TokenItem
from sagellm_common.errors import PayloadTooLarge, SageError

log = structlog.get_logger(__name__)


class FrameSender:
    """Publishes frames. What cannot be sent stays in the ledger and is sent when a gateway asks for it."""

    def __init__(self, bus: Bus, engine_id: str, incarnation: str) -> None:
        self._bus, self._engine_id, self._incarnation = bus, engine_id, incarnation
        self._numbers: Counter[str] = Counter()
        self.num_unsent = 0

    async def send(self, items: dict[str, list[TokenItem]]) -> None:
        """Publish the items of each gateway; nothing is published, or buffered, while the bus is down."""
        for gateway_id, of_gateway in items.items():
            if not self._bus.is_connected:
                self.num_unsent += 1
                continue
            try:
                await self._send(gateway_id, of_gateway)
            except SageError as error:
                self.num_unsent += 1
                log.warning("frame_not_sent", gateway_id=gateway_id, error=error.message)

    def forget(self, gateway_id: str) -> None:
        """Drop the frame number of a gateway that is gone."""
        del self._numbers[gateway_id]

    async def _send(self, gateway_id: str, items: list[TokenItem]) -> None:
        number = self._numbers[gateway_id] + 1
        frame = TokenFrame(self._engine_id, self._incarnation, number, items)
        try:
            await self._bus.publish(self._bus.settings.subjects.tokens(gateway_id), frame)
        except PayloadTooLarge:
            for part in split(items):
                await self._send(gateway_id, part)
            return
        self._numbers[gateway_id] = number


def split(items: list[TokenItem]) -> Iterator[list[TokenItem]]:
    """Halve a list of items, or the tokens of a single one; raises PayloadTooLarge if neither can be."""
    middle = len(items) // 2
    if middle:
        yield items[:middle]
        yield items[middle:]
        return
    for item in split_tokens(items[0]):
        yield [item]


def split_tokens(item: TokenItem) -> tuple[TokenItem, TokenItem]:
    """Return two items that say the same as one; only the second carries the end."""
    middle = len(item.token_ids) // 2
    if not middle:
        raise PayloadTooLarge("a single token does not fit into a message of the bus")
    head, tail = (None, None) if item.logprobs is None else (item.logprobs[:middle], item.logprobs[middle:])
    key = item.request_id, item.epoch, item.choice
    return (
        TokenItem(*key, item.first_index, item.token_ids[:middle], head, cached_tokens=item.cached_tokens),
        TokenItem(*key, item.first_index + middle, item.token_ids[middle:], tail, item.finish, item.error),
    )


def fitting(item: TokenItem, max_bytes: int) -> TokenItem:
    """Return as much of an item as fits into a message; the receiver asks again for the rest."""
    while len(encode(item)) > max_bytes:
        item = split_tokens(item)[0]
    return item
