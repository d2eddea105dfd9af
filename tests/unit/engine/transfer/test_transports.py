"""What every transport promises, in one process and by NIXL."""

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from sagellm_common.errors import InvalidArgument
from sagellm_engine.transfer.layout import Region
from sagellm_engine.transfer.nixl_transport import NixlTransport
from sagellm_engine.transfer.registry import make_transport
from sagellm_engine.transfer.transport import InProcessTransport, Memory, Transport

SIZE = 1 << 20
LIMIT_S = 20.0


class Side:
    """An engine's memory, open to a transport."""

    def __init__(self, transport: Transport, seed: int) -> None:
        self.transport = transport
        self.memory = np.random.default_rng(seed).integers(0, 255, SIZE, np.uint8)
        self.address = int(self.memory.ctypes.data)
        self.agent = transport.open(Memory(self.address, SIZE))


@pytest.fixture(params=[InProcessTransport, NixlTransport])
def sides(request: pytest.FixtureRequest) -> Iterator[tuple[Side, Side]]:
    """One that gives and one that takes."""
    create: Callable[[], Transport] = request.param
    giver, taker = Side(create(), 1), Side(create(), 2)
    yield giver, taker
    for side in (giver, taker):
        side.transport.close()


def ended(giver: Side, taker: Side, number: int) -> dict[int, bool]:
    """Drive both until so many reads have ended."""
    found: dict[int, bool] = {}
    deadline = time.monotonic() + LIMIT_S
    while len(found) < number:
        assert time.monotonic() < deadline, f"only {found} have ended"
        for handle, ok in taker.transport.poll():
            assert handle not in found, "a read ends once"
            found[handle] = ok
        giver.transport.poll()
    return found


def test_scattered_pieces_arrive_and_nothing_else_changes(sides: tuple[Side, Side]) -> None:
    """Hundreds of pieces of two reads at once."""
    giver, taker = sides
    before = taker.memory.copy()
    pieces = [(place * 4096, (211 - place) * 4096, 1000 + place) for place in range(200)]
    for handle, part in ((1, pieces[::2]), (2, pieces[1::2])):
        regions = [Region(giver.address + source, taker.address + target, size) for source, target, size in part]
        taker.transport.start(handle, giver.agent, "cpu", regions, None)
    assert ended(giver, taker, 2) == {1: True, 2: True}
    for source, target, size in pieces:
        before[target : target + size] = giver.memory[source : source + size]
    np.testing.assert_array_equal(taker.memory, before)


def test_memory_of_its_own_can_be_read_into(sides: tuple[Side, Side]) -> None:
    """What is to be brought into another form does not go into the pages."""
    giver, taker = sides
    before, scratch = taker.memory.copy(), np.zeros(5000, np.uint8)
    address = int(scratch.ctypes.data)
    for handle in (1, 2):
        regions = [Region(giver.address + 100 * handle, address, 5000)]
        taker.transport.start(handle, giver.agent, "cpu", regions, Memory(address, 5000))
        assert ended(giver, taker, 1) == {handle: True}
        np.testing.assert_array_equal(scratch, giver.memory[100 * handle : 100 * handle + 5000])
    np.testing.assert_array_equal(taker.memory, before)


def test_a_read_from_nobody_ends_without_success(sides: tuple[Side, Side]) -> None:
    """What came is no agent of anybody; the next read from a real one is not hurt."""
    giver, taker = sides
    regions = [Region(giver.address, taker.address, 4096)]
    taker.transport.start(1, b"nobody", "cpu", regions, None)
    taker.transport.start(2, giver.agent, "cpu", regions, None)
    assert ended(giver, taker, 2) == {1: False, 2: True}


def test_a_read_of_memory_that_was_not_opened_ends_without_success() -> None:
    """NIXL lets nobody read beside what was registered."""
    giver, taker = Side(NixlTransport(), 1), Side(NixlTransport(), 2)
    beside = np.zeros(4096, np.uint8)
    regions = [Region(int(beside.ctypes.data), taker.address, 4096)]
    taker.transport.start(1, giver.agent, "cpu", regions, None)
    assert ended(giver, taker, 1) == {1: False}
    for side in (giver, taker):
        side.transport.close()


def test_a_transport_is_made_by_its_name_or_by_the_name_of_its_class() -> None:
    """Anything else is refused, with why."""
    assert isinstance(make_transport("nixl"), NixlTransport)
    assert isinstance(make_transport("sagellm_engine.transfer.transport:InProcessTransport"), InProcessTransport)
    with pytest.raises(InvalidArgument, match="cannot be loaded"):
        make_transport("no.such:Thing")
