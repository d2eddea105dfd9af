"""Prefill and decode apart, and something goes wrong: at every stage of a hand-off, over real processes and NIXL.

The mock engines make their tokens of what the pages hold, so that a wrong page is a wrong stream. After every case all
pages of both engines are free or cached again: none is leased, reserved or quarantined for ever.
"""

import asyncio
import itertools
import os
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from nats.aio.msg import Msg

from sagellm_common.bus import Bus, Received
from sagellm_common.contracts.events import END_PHASES, RequestEvent
from sagellm_common.contracts.frames import TokenFrame
from sagellm_common.contracts.generate import CancelReply, CancelRequest
from sagellm_common.contracts.reports import EngineReport, Gauges
from sagellm_common.nats_server import NatsServer
from sagellm_common.settings import BusSettings
from sagellm_engine.kv.pool import PAGE_SIZE
from sagellm_engine.transfer.giving import TERM_S
from sagellm_engine.transfer.taking import PATIENCE_S
from support.engine import mock_core, request, run
from support.gated_transport import Gate
from support.stack import LocalStack
from support.wait import eventually

TOKENS = 60
PROMPT_TOKENS = 900
VOCABULARY = 3072
STAGES = ("before reserve", "during prefill", "during transfer", "after commit")
TESTS = Path(__file__).parents[1]
LONGEST_S = TERM_S + PATIENCE_S + 9.0
"""Lease and patience, and what is computed again after them, on a busy machine."""


class Pair:
    """A stack of an engine `p` that prefills and an engine `d` that decodes, kept for all tests."""

    def __init__(self, stack: LocalStack, gate: Gate) -> None:
        self.stack, self.gate = stack, gate
        self._prompts = itertools.count(1)

    def start(self) -> None:
        """Start whichever engine does not run: half a millisecond a prompt token, in chunks of 64."""
        for engine_id, role in (("p", "prefill"), ("d", "decode")):
            process = self.stack.engines.get(engine_id)
            if process is None or process.exit_code is not None:
                if process is not None:
                    self.stack.services.processes.remove(process)
                self.stack.start_engine(
                    engine_id,
                    engine_role=role,
                    kv_transfer="support.gated_transport:GatedNixl",
                    mock_prefill_ms_per_token=0.5,
                    mock_step_ms=3.0,
                    max_batch_tokens=64,
                    max_num_seqs=32,
                    num_pages=512,
                )

    def prompt(self) -> list[int]:
        """A prompt that no engine has seen."""
        number = next(self._prompts)
        return [(place * 13 + number * 101) % 3000 + 3 for place in range(PROMPT_TOKENS)]

    def signal(self, engine_id: str, number: signal.Signals) -> None:
        """Send a signal to an engine that runs."""
        process = self.stack.engines[engine_id]
        if process.exit_code is None:
            os.kill(process.pid, number)

    def go_on(self) -> None:
        """Undo what holds a request at a stage."""
        self.gate.open()
        self.signal("p", signal.SIGCONT)


@pytest.fixture(scope="module")
def kept_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Both engines, a scheduler that always separates long prompts, and a gateway."""
    folder = tmp_path_factory.mktemp("handoff")
    server = NatsServer(folder / "nats")
    server.start()
    stack = LocalStack(BusSettings(nats_url=server.url), folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HANDOFF_GATE", str(folder))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(TESTS)))))
        stack.start_scheduler("s1", pd_policy="threshold")
        stack.start_rest()
        yield Pair(stack, Gate(folder))
        stack.stop()
    server.stop()


class Watch:
    """What is to be heard on the bus of a pair while one test runs."""

    def __init__(self, pair: Pair, bus: Bus) -> None:
        self.pair, self.bus = pair, bus
        self.leases: list[tuple[str, str, bytes]] = []  # verb, subject, body
        self.tokens: dict[str, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
        self.gauges: dict[str, Gauges] = {}
        self.events: list[RequestEvent] = []

    async def listen(self) -> None:
        """Listen to hand-offs, frames, reports and the requests' events."""
        subjects = self.bus.settings.subjects
        await self.bus.client.subscribe(f"{subjects.prefix}.engine.*.lease.*", cb=self._lease)
        await self.bus.subscribe(f"{subjects.prefix}.tokens.*", TokenFrame, self._frame)
        await self.bus.subscribe(subjects.engine_metrics("*"), EngineReport, self._report)
        await self.bus.subscribe(f"{subjects.prefix}.events.request.*", RequestEvent, self._event)
        await self.bus.flush()

    async def _lease(self, message: Msg) -> None:
        self.leases.append((message.subject.rpartition(".")[2], message.subject, message.data))

    def _frame(self, frame: TokenFrame, received: Received) -> None:
        for item in frame.items:
            for place, token in enumerate(item.token_ids, item.first_index):
                self.tokens[item.request_id][place].add(token)

    def _report(self, report: EngineReport, received: Received) -> None:
        self.gauges[report.engine_id] = report.gauges

    def _event(self, event: RequestEvent, received: Received) -> None:
        self.events.append(event)

    async def ready(self) -> None:
        """Return once both engines take requests."""
        self.pair.start()
        await self.pair.stack.known(self.bus)

    def num(self, verb: str) -> int:
        """How many messages of a kind the engines have exchanged."""
        return sum(1 for seen, _, _ in self.leases if seen == verb)

    async def reached(self, stage: str) -> None:
        """Return when the only request is at a stage."""
        match stage:
            case "before reserve":
                await eventually(lambda: "d" in self.gauges and self.gauges["d"].waiting > 0, what="the dispatch")
            case "during prefill":
                await eventually(lambda: self.num("ready") > 0, what="a page that is ready")
            case "during transfer":
                await eventually(lambda: self._first_token_is_there(), what="the end of the prefill")
            case _:
                await eventually(lambda: bool(self.tokens), what="a token")

    def _first_token_is_there(self) -> bool:
        gauges = self.gauges.get("p")
        return self.num("ready") > 0 and gauges is not None and not gauges.running and not gauges.waiting

    async def ended(self) -> RequestEvent:
        """Return how the request has ended."""
        await eventually(lambda: bool(self._ends()), LONGEST_S, f"an end ({[e.phase for e in self.events]})")
        return self._ends()[-1]

    def _ends(self) -> list[RequestEvent]:
        return [event for event in self.events if event.phase in END_PHASES]

    async def all_pages_back(self) -> None:
        """Return once no living engine holds a page for anybody."""
        engines = self.pair.stack.engines
        alive = [name for name, process in engines.items() if process.exit_code is None]
        self.gauges.clear()
        try:
            await eventually(lambda: all(map(self._is_idle, alive)), LONGEST_S, "pages that are free again")
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.gauges}\n{self.pair.stack.logs()}") from error

    def _is_idle(self, engine_id: str) -> bool:
        gauges = self.gauges.get(engine_id)
        if gauges is None or gauges.running or gauges.waiting:
            return False
        return gauges.pages_free + gauges.pages_cached == gauges.pages_total

    async def keeps_pages_apart(self) -> None:
        """Return once the decode engine has nothing to do, and see that it holds pages all the same."""
        self.gauges.clear()
        await eventually(lambda: "d" in self.gauges and not self.gauges["d"].running + self.gauges["d"].waiting)
        gauges = self.gauges["d"]
        assert gauges.pages_total - gauges.pages_free - gauges.pages_cached >= PROMPT_TOKENS // PAGE_SIZE

    async def again(self) -> None:
        """Send every message of the hand-off once more."""
        for _, subject, body in list(self.leases):
            await self.bus.client.publish(subject, body)
        await self.bus.flush()


@pytest.fixture
async def watch(kept_pair: Pair) -> AsyncIterator[Watch]:
    """The pair, ready, and what is heard of it."""
    bus = await Bus.connect(kept_pair.stack.settings, "test")
    watch = Watch(kept_pair, bus)
    try:
        await watch.listen()
        await watch.ready()
        yield watch
    finally:
        kept_pair.go_on()
        await bus.close()


class Client:
    """One streamed completion, read in the background."""

    def __init__(self, pair: Pair, prompt: list[int]) -> None:
        self.finish, self.num_chunks = "", 0
        self.error: openai.APIError | None = None
        self._client = openai.AsyncOpenAI(base_url=f"{pair.stack.url}/v1", api_key="x", max_retries=0, timeout=40)
        self._asked: dict[str, Any] = {"model": "mock-model", "prompt": prompt, "max_tokens": TOKENS, "temperature": 0}
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            stream = await self._client.completions.create(stream=True, extra_body={"ignore_eos": True}, **self._asked)
            async for chunk in stream:
                self.num_chunks += 1
                for choice in chunk.choices:
                    self.finish = choice.finish_reason or self.finish
        except openai.APIError as error:
            self.error = error

    async def close(self) -> None:
        """Close the connection, whatever is still to come."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._client.close()

    async def done(self) -> None:
        """Return when the stream has ended."""
        await asyncio.wait_for(self._task, LONGEST_S)
        await self._client.close()


async def begun(watch: Watch, stage: str, prompt: list[int]) -> Client:
    """Send a request and return when it has come to a stage, at which it is held if it would pass it quickly."""
    if stage == "before reserve":
        watch.pair.signal("p", signal.SIGSTOP)
    if stage == "during transfer":
        watch.pair.gate.hold.touch()
    client = Client(watch.pair, prompt)
    await watch.reached(stage)
    return client


async def ends_well(watch: Watch, client: Client, prompt: list[int]) -> RequestEvent:
    """Return how the request ended, if it did with exactly the right tokens, and nobody sent a wrong one."""
    await client.done()
    assert client.error is None, client.error
    assert client.finish == "length"
    end = await watch.ended()
    right = run(mock_core(vocab_size=VOCABULARY), [request(prompt, max_tokens=TOKENS)])[0].tokens
    assert watch.tokens[end.request_id] == {place: {token} for place, token in enumerate(right)}
    await watch.all_pages_back()
    return end


async def test_a_prompt_is_handed_over(watch: Watch) -> None:
    """Nothing goes wrong: `p` prefills, `d` sends every token, the figures tell what the transfer took."""
    prompt = watch.pair.prompt()
    end = await ends_well(watch, Client(watch.pair, prompt), prompt)
    assert (end.engine_id, end.epoch) == ("d", 0)
    assert end.transfer_ms is not None
    assert watch.num("closed") == 1
    assert watch.num("ready") >= 2, "pages are read while others are computed"


@pytest.mark.parametrize("stage", STAGES)
async def test_cancelled(watch: Watch, stage: str) -> None:
    """A cancel over NATS ends it on both engines; pages into which a read may still land are nobody's until it has."""
    client = await begun(watch, stage, watch.pair.prompt())
    request_id = watch.events[-1].request_id
    subject = watch.bus.settings.subjects.cancel(request_id)
    assert (await watch.bus.request(subject, CancelRequest(request_id=request_id), CancelReply)).found
    assert (await watch.ended()).phase == "cancelled"
    if stage == "during transfer":
        await watch.keeps_pages_apart()
    watch.pair.go_on()
    await client.done()
    await watch.all_pages_back()


@pytest.mark.parametrize("stage", STAGES)
async def test_the_client_goes_away(watch: Watch, stage: str) -> None:
    """A connection that is closed cancels it on both engines; the same is true of its pages."""
    client = await begun(watch, stage, watch.pair.prompt())
    await client.close()
    assert (await watch.ended()).phase == "cancelled"
    if stage == "during transfer":
        await watch.keeps_pages_apart()
    watch.pair.go_on()
    await watch.all_pages_back()


@pytest.mark.parametrize("stage", STAGES)
async def test_a_transfer_fails(watch: Watch, stage: str) -> None:
    """The decode engine prefills itself; a failure that comes too late changes nothing."""
    prompt = watch.pair.prompt()
    client = await begun(watch, stage, prompt)
    watch.pair.gate.fail.touch()
    watch.pair.gate.hold.unlink(missing_ok=True)
    watch.pair.signal("p", signal.SIGCONT)
    end = await ends_well(watch, client, prompt)
    assert (end.engine_id, end.epoch) == ("d", 0)
    assert (end.transfer_ms is None) == (stage != "after commit")


@pytest.mark.parametrize("stage", STAGES)
async def test_messages_come_twice_and_late(watch: Watch, stage: str) -> None:
    """Those of the hand-off itself, and all those of an earlier one."""
    earlier = watch.pair.prompt()
    await ends_well(watch, Client(watch.pair, earlier), earlier)
    watch.tokens.clear()
    watch.events.clear()
    watch.gauges.clear()
    old, watch.leases = watch.leases, []
    prompt = watch.pair.prompt()
    client = await begun(watch, stage, prompt)
    watch.leases += old
    await watch.again()
    watch.pair.go_on()
    await watch.again()
    end = await ends_well(watch, client, prompt)
    assert (end.engine_id, end.epoch) == ("d", 0)
    assert end.transfer_ms is not None
    await watch.again()
    await watch.all_pages_back()


@pytest.mark.parametrize("stage", STAGES)
async def test_the_prefill_engine_dies(watch: Watch, stage: str) -> None:
    """What it had not handed over is prefilled again where it is decoded."""
    prompt = watch.pair.prompt()
    client = await begun(watch, stage, prompt)
    watch.pair.stack.engines["p"].kill()
    watch.pair.gate.open()
    end = await ends_well(watch, client, prompt)
    assert (end.engine_id, end.epoch) == ("d", 0)


@pytest.mark.parametrize("stage", STAGES)
async def test_the_decode_engine_dies(watch: Watch, stage: str) -> None:
    """The request goes on in a new epoch, and the lease of the old one ends."""
    prompt = watch.pair.prompt()
    client = await begun(watch, stage, prompt)
    watch.pair.stack.engines["d"].kill()
    watch.pair.go_on()
    end = await ends_well(watch, client, prompt)
    assert (end.engine_id, end.epoch) == ("p", 1)
