"""Answers a scheduler that asks which requests are open, in parts that fit the bus."""

from collections.abc import Iterable, Iterator

from sagellm_common.codec import encode
from sagellm_common.contracts.scheduling import OpenReply, OpenRequest


def parts(gateway_id: str, requests: Iterable[OpenRequest], max_bytes: int) -> Iterator[OpenReply]:
    """Split into replies of about `max_bytes` at most; there is at least one, and the last is marked."""
    batch: list[OpenRequest] = []
    size, part = 0, 0
    for request in requests:
        request_bytes = len(encode(request))
        if batch and size + request_bytes > max_bytes:
            yield OpenReply(gateway_id=gateway_id, requests=batch, part=part, last=False)
            batch, size, part = [], 0, part + 1
        batch.append(request)
        size += request_bytes
    yield OpenReply(gateway_id=gateway_id, requests=batch, part=part, last=True)
