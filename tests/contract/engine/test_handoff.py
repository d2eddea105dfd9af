"""Two engines and a hand-off between them, by the contract alone: what is refused, and what becomes of the request."""

import urllib.request
from collections.abc import Awaitable, Callable

import pytest

from sagellm_common.bus import Bus, Received
from sagellm_common.contracts.handoff import KvMemory, LeaseAbort, LeaseName, LeaseOffer, LeaseTaken
from sagellm_common.errors import Unavailable
from sagellm_common.nats_server import free_port
from support.engine import mock_core, request, run
from support.engine_peer import EnginePeer
from support.processes import ServiceProcess
from support.wait import eventually

StartEngine = Callable[..., Awaitable[tuple[ServiceProcess, EnginePeer]]]
PROMPT = list(range(5, 200))
RIGHT = run(mock_core(vocab_size=3072), [request(PROMPT, max_tokens=8)])[0].tokens
MEMORY = KvMemory("mock-model", "plain", "tokens", "int64", 1, 0, 1, 1, 16, 100, 4096, 1, 12800, 128)


class Leases:
    """What engines say to a name that is no engine: the test."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.taken: list[LeaseTaken] = []

    async def open(self) -> None:
        """Listen as `ghost`."""

        def note(message: LeaseTaken, received: Received) -> None:
            self.taken.append(message)

        await self._bus.subscribe(self._bus.settings.subjects.engine_lease("ghost", "taken"), LeaseTaken, note)
        await self._bus.flush()

    async def offer(self, to: str, request_id: str) -> None:
        """Offer pages that nobody has."""
        offer = LeaseOffer(LeaseName("i", request_id, 0, 1), "ghost", list(range(13)), 13, MEMORY, b"ghost")
        await self._bus.publish(self._bus.settings.subjects.engine_lease(to, "offer"), offer)


@pytest.fixture
async def leases(bus: Bus) -> Leases:
    """The test as another engine."""
    made = Leases(bus)
    await made.open()
    return made


async def both(start_engine: StartEngine, **decode: object) -> tuple[EnginePeer, EnginePeer]:
    """An engine that prefills and one that decodes."""
    _, giver = await start_engine("p", engine_role="prefill")
    _, taker = await start_engine("d", engine_role="decode", **decode)
    return giver, taker


async def hand_over(giver: EnginePeer, taker: EnginePeer) -> list[int]:
    """Dispatch a request to both; return the tokens that came."""
    body = taker.make(prompt_token_ids=PROMPT, prefill_engine="p")
    prefill = {"incarnation": giver.engine.incarnation, "prefill_engine": "", "decode_engine": "d"}
    await taker.dispatch(body)
    await giver.dispatch(body.model_copy(update=prefill))
    return taker.tokens[await taker.ended(body)]


async def test_engines_of_one_model_hand_over(start_engine: StartEngine) -> None:
    """They register with the same class; the metrics of both count it."""
    ports = free_port(), free_port()
    _, giver = await start_engine("p", engine_role="prefill", metrics_port=ports[0])
    _, taker = await start_engine("d", engine_role="decode", metrics_port=ports[1])
    assert giver.engine.handoff == taker.engine.handoff != ""
    assert taker.engine.kv_bytes_per_token == 8
    assert await hand_over(giver, taker) == RIGHT
    await giver.idle()
    assert _metric(ports[0], 'outcome="given"') == _metric(ports[1], 'outcome="taken"') == 1.0
    assert _metric(ports[1], "sagellm_engine_transfer_seconds_count") == 1.0


async def test_pages_of_another_model_are_refused(start_engine: StartEngine) -> None:
    """The decode engine says why, prefills itself, and the other one gets its pages back."""
    _, giver = await start_engine("p", engine_role="prefill", model="another", served_model_name="mock-model")
    process, taker = await start_engine("d", engine_role="decode")
    assert giver.engine.handoff != taker.engine.handoff
    assert await hand_over(giver, taker) == RIGHT
    await process.logged("model is 'another' there and 'mock-model' here")
    await giver.idle()
    await taker.idle()


async def test_no_room_means_prefilling_there_later(start_engine: StartEngine) -> None:
    """A decode engine whose pages are taken refuses the offer and queues the request like any other."""
    giver, taker = await both(start_engine, num_pages=16, mock_step_ms=5.0)
    first = taker.make(prompt_token_ids=[7] * 64, max_tokens=40)
    await taker.dispatch(first)
    await eventually(lambda: bool(taker.tokens), what="a token of the first")
    assert await hand_over(giver, taker) == RIGHT
    await taker.ended(first)
    await giver.idle()


async def test_an_offer_from_somebody_else_is_refused(start_engine: StartEngine, leases: Leases) -> None:
    """Only the engine that the gateway has named may hand the request over; it still can afterwards."""
    giver, taker = await both(start_engine)
    body = taker.make(prompt_token_ids=PROMPT, prefill_engine="p")
    await taker.dispatch(body)
    await leases.offer("d", body.request_id)
    await eventually(lambda: bool(leases.taken), what="an answer")
    assert not leases.taken[0].accepted
    prefill = {"incarnation": giver.engine.incarnation, "prefill_engine": "", "decode_engine": "d"}
    await giver.dispatch(body.model_copy(update=prefill))
    assert taker.tokens[await taker.ended(body)] == RIGHT
    assert taker.ends[body.request_id, 0, 0].error is None


async def test_pages_that_cannot_be_read_are_prefilled_here(start_engine: StartEngine, leases: Leases) -> None:
    """An agent that is none: the read fails, and the request does not."""
    _, taker = await start_engine("d", engine_role="decode")
    body = taker.make(prompt_token_ids=PROMPT, prefill_engine="ghost")
    await taker.dispatch(body)
    await leases.offer("d", body.request_id)
    assert taker.tokens[await taker.ended(body)] == RIGHT
    await taker.idle()


async def test_a_gateway_may_say_that_nothing_will_come(bus: Bus, start_engine: StartEngine) -> None:
    """The prompt is prefilled at once then."""
    _, taker = await start_engine("d", engine_role="decode")
    body = taker.make(prompt_token_ids=PROMPT, prefill_engine="ghost")
    await taker.dispatch(body)
    abort = LeaseAbort(request_id=body.request_id, epoch=0, reason="it was refused")
    await bus.publish(bus.settings.subjects.engine_lease("d", "abort"), abort)
    assert taker.tokens[await taker.ended(body, timeout_s=3.0)] == RIGHT


async def test_a_newer_epoch_takes_the_place_of_one_that_waits(start_engine: StartEngine) -> None:
    """What waited for a hand-off is forgotten; nothing of it is ever sent."""
    _, taker = await start_engine("d", engine_role="decode")
    body = taker.make(prompt_token_ids=PROMPT, prefill_engine="ghost")
    await taker.dispatch(body)
    await taker.dispatch(body.model_copy(update={"epoch": 1, "prefill_engine": ""}))
    await eventually(lambda: (body.request_id, 1, 0) in taker.ends, what="the end of epoch 1")
    assert taker.tokens[body.request_id, 1, 0] == RIGHT
    await taker.idle()
    assert (body.request_id, 0, 0) not in taker.tokens


async def test_without_transfer_nothing_is_prefilled_for_others(start_engine: StartEngine) -> None:
    """A typed refusal; and as the decoding side it does it all itself."""
    _, peer = await start_engine("e", kv_transfer="none")
    assert peer.engine.handoff == ""
    with pytest.raises(Unavailable, match="SAGELLM_KV_TRANSFER"):
        await peer.dispatch(peer.make(prompt_token_ids=PROMPT, decode_engine="d"))
    assert peer.tokens[await peer.run(prompt_token_ids=PROMPT, prefill_engine="p")] == RIGHT


def _metric(port: int, part: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.rsplit(" ", 1)[1]) for line in lines if part in line and not line.startswith("#"))
