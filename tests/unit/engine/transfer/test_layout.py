"""Pages of one form in another: every token's keys and values arrive where they belong, and nothing else changes."""

from dataclasses import replace

import numpy as np
import pytest

from sagellm_engine.transfer.layout import BLOCKED, PAGED, TOKENS, KvLayout, Region, regions, why_incompatible
from sagellm_engine.transfer.reads import PageRead, PageReads
from sagellm_engine.transfer.transport import InProcessTransport, memory_of
from sagellm_engine.transfer.wire import DTYPES, WirePages, pack, unpack

LAYERS, HEADS, DIM = 2, 4, 8
ITEM = {"float32": 4, "bfloat16": 2, "int8": 1}


def layout(
    order: str, dtype: str, *, page_size: int = 16, heads: tuple[int, int] = (0, HEADS), pages: int = 12
) -> KvLayout:
    first, num = heads
    block = 2 * page_size * (DIM * ITEM[dtype] + (4 if dtype == "int8" else 0))
    planes = LAYERS if order == BLOCKED else 2 * LAYERS
    size = num * block if order == BLOCKED else num * page_size * DIM * ITEM[dtype]
    return KvLayout(
        model="m",
        keys="plain",
        order=order,
        dtype=dtype,
        num_layers=LAYERS,
        first_head=first,
        num_heads=num,
        head_dim=DIM,
        page_size=page_size,
        num_pages=pages,
        address=0,
        num_planes=planes,
        plane_bytes=pages * size,
        page_bytes=size,
    )


def wire(dtype: str, num_tokens: int, seed: int = 1) -> WirePages:
    """Values and scales that are all different."""
    chance = np.random.default_rng(seed)
    shape = (LAYERS, 2, HEADS, num_tokens, DIM)
    if dtype == "int8":
        values = chance.integers(-127, 127, shape, np.int8)
        return WirePages(values, chance.random(shape[:-1]).astype(np.float32))
    raw = chance.permutation(np.arange(np.prod(shape), dtype=np.uint32)).reshape(shape)
    return WirePages(raw.astype(DTYPES[dtype]), None)


class Engine:
    """Memory of an engine, somewhere."""

    def __init__(self, form: KvLayout) -> None:
        self.memory = np.zeros((form.num_planes, form.num_pages, form.page_bytes), np.uint8)
        self.layout = replace(form, address=int(self.memory.ctypes.data))

    def write(self, pages: list[int], tokens: WirePages) -> None:
        content = np.take(self.memory, pages, axis=1)
        pack(self.layout, content, tokens, 0)
        self.memory[:, pages] = content

    def read(self, pages: list[int], num_tokens: int) -> WirePages:
        found = unpack(self.layout, np.take(self.memory, pages, axis=1))
        scales = None if found.scales is None else found.scales[:, :, :, :num_tokens]
        return WirePages(found.values[:, :, :, :num_tokens], scales)


def assert_same(found: WirePages, expected: WirePages) -> None:
    np.testing.assert_array_equal(found.values, expected.values)
    if expected.scales is not None:
        np.testing.assert_array_equal(found.scales, expected.scales)


FORMS = [(PAGED, "float32"), (PAGED, "bfloat16"), (BLOCKED, "float32"), (BLOCKED, "bfloat16"), (BLOCKED, "int8")]


@pytest.mark.parametrize(("order", "dtype"), FORMS)
def test_what_is_packed_comes_out(order: str, dtype: str) -> None:
    """Tokens in the wire order survive a page, a whole and a partly filled one."""
    engine, tokens = Engine(layout(order, dtype)), wire(dtype, 40)
    engine.write([7, 2, 5], tokens)
    assert_same(engine.read([7, 2, 5], 40), tokens)
    assert not engine.memory[:, [0, 1, 3, 4, 6]].any()


def test_blocks_lie_as_the_kernels_have_them() -> None:
    """Keys with tokens side by side, values with dimensions side by side, as csrc/kv.h says."""
    engine, tokens = Engine(layout(BLOCKED, "float32")), wire("float32", 16)
    engine.write([3], tokens)
    block = engine.memory[1, 3].view(np.float32).reshape(HEADS, 2, DIM * 16)[2]  # layer 1, head 2
    np.testing.assert_array_equal(block[0].reshape(DIM, 16).T, tokens.values[1, 0, 2])
    np.testing.assert_array_equal(block[1].reshape(16, DIM), tokens.values[1, 1, 2])


@pytest.mark.parametrize("theirs", [PAGED, BLOCKED])
@pytest.mark.parametrize("ours", [PAGED, BLOCKED])
@pytest.mark.parametrize(("their_size", "our_size"), [(16, 16), (16, 32), (32, 16), (64, 16)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pages_are_read_into_our_form(theirs: str, ours: str, their_size: int, our_size: int, dtype: str) -> None:
    """Whatever order and page size the other engine has, read in two parts; other pages of ours stay as they were."""
    giver, taker = Engine(layout(theirs, dtype, page_size=their_size)), Engine(layout(ours, dtype, page_size=our_size))
    tokens, num_tokens = wire(dtype, 100), 100
    sources, targets = _pages(num_tokens, their_size), _pages(num_tokens, our_size)
    giver.write(sources, tokens)
    assert why_incompatible(taker.layout, giver.layout) is None
    assert _read(giver, taker, sources, targets) == [(1, True), (2, True)]
    assert_same(taker.read(targets, num_tokens), tokens)
    others = [page for page in range(12) if page not in targets]
    assert not taker.memory[:, others].any()


@pytest.mark.parametrize("heads", [(0, 2), (1, 2), (2, 2), (3, 1)])
def test_a_part_of_the_heads_is_read(heads: tuple[int, int]) -> None:
    """An engine that has some of the key heads takes those from one that has all."""
    giver, taker = Engine(layout(BLOCKED, "int8")), Engine(layout(BLOCKED, "int8", heads=heads))
    tokens = wire("int8", 30)
    giver.write([4, 1], tokens)
    assert _read(giver, taker, [4, 1], [0, 9]) == [(1, True), (2, True)]
    first, num = heads
    part = slice(first, first + num)
    assert tokens.scales is not None
    assert_same(taker.read([0, 9], 30), WirePages(tokens.values[:, :, part], tokens.scales[:, :, part]))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"model": "other"}, "model is 'other' there"),
        ({"keys": "even"}, "keys is 'even' there"),
        ({"dtype": "int8"}, "dtype is 'int8' there"),
        ({"num_layers": 3}, "num layers is 3 there"),
        ({"head_dim": 16}, "head dim is 16 there"),
        ({"num_heads": 2}, "it has key heads 0 to 1"),
        ({"order": TOKENS}, "cannot be brought into"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_reason(change: dict[str, object], why: str) -> None:
    """Anything but page size, order and more heads must be equal."""
    ours = layout(PAGED, "float32")
    assert why in (why_incompatible(ours, replace(ours, **change)) or "")  # type: ignore[arg-type] # any field


def test_a_gpu_takes_its_own_form_only() -> None:
    """Repacking is done in the memory of a CPU."""
    ours = replace(layout(PAGED, "bfloat16"), device="cuda:0")
    assert why_incompatible(ours, replace(ours, address=4096, num_pages=7)) is None
    assert "on cuda:0" in (why_incompatible(ours, layout(PAGED, "bfloat16", page_size=32)) or "")


def test_neighbouring_pages_are_copied_in_one_piece() -> None:
    """Runs that are neighbours on both sides are one region per plane."""
    ours = replace(layout(PAGED, "float32"), address=1_000_000)
    theirs = replace(ours, address=5_000_000)
    size, plane = ours.page_bytes, ours.plane_bytes
    found = list(regions(theirs, (3, 4, 5, 9), ours, (0, 1, 2, 3)))
    assert found[:2] == [
        Region(5_000_000 + 3 * size, 1_000_000, 3 * size),
        Region(5_000_000 + 9 * size, 1_000_000 + 3 * size, size),
    ]
    assert found[2].target == 1_000_000 + plane
    assert len(found) == 2 * ours.num_planes


def _pages(num_tokens: int, size: int) -> list[int]:
    """Pages in no order."""
    return [11, 3, 7, 0, 5, 9, 2][: -(-num_tokens // size)]


def _read(giver: Engine, taker: Engine, sources: list[int], targets: list[int]) -> list[tuple[int, bool]]:
    """Read all but the last page, then that one."""
    transport = InProcessTransport()
    agent = transport.open(memory_of(giver.layout))
    reads, last = PageReads(transport, taker.layout), len(sources) - 1
    for handle, (first, stop) in enumerate([(0, last), (last, last + 1)], 1):
        part = tuple(sources[first:stop])
        reads.start(PageRead(handle, agent, giver.layout, first, part, tuple(targets)))
    ended = reads.poll()
    assert reads.num_under_way == 0
    return ended
