"""A trace played on a live stack: each request when it is due, and what the scheduler recorded of it."""

import asyncio
import time
from dataclasses import dataclass

from benchmarks.peers.session import prompts
from sagellm.client.nats_async import AsyncNatsClient
from sagellm.client.request import GenerateOptions
from sagellm.launcher.stack import Stack
from sagellm_common.bus import Bus, Received
from sagellm_common.contracts.decisions import DecisionRecord
from sagellm_common.contracts.engines import ENGINES_TTL_S, EngineRegistration
from sagellm_common.contracts.reports import EngineReport, StepSample
from sagellm_common.errors import SageError
from sagellm_common.settings import BusSettings
from sagellm_simulation.trace import Trace, TraceRequest

REFUSALS = ("invalid_argument", "resource_exhausted")
WARM_UP = TraceRequest(request_id="warm-up", at=0.0, prompt_tokens=20, output_tokens=4)


@dataclass(slots=True)
class Live:
    """What a stack did with a trace: records by the trace's request ids, those that were refused, steps and
    registrations by engine, and seconds from the first request to the last answer."""

    records: dict[str, DecisionRecord]
    refused: list[TraceRequest]
    steps: dict[str, list[StepSample]]
    registrations: dict[str, EngineRegistration]
    seconds: float = 0.0

    def times(self) -> dict[str, list[float]]:
        """Time to the first token and from token to token, ms."""
        return {
            "ttft": [record.ttft_ms for record in self.records.values() if record.ttft_ms is not None],
            "itl": [record.itl_ms for record in self.records.values() if record.itl_ms is not None],
        }


class _Player:
    """Sends requests and keeps the records of those that were answered, by the ids that the stack gave them."""

    def __init__(self, client: AsyncNatsClient, model: str, vocab: int) -> None:
        self._client, self._model, self._vocab = client, model, vocab
        self._records: dict[str, DecisionRecord] = {}
        self._has_come = asyncio.Event()
        self._ids: dict[str, str] = {}
        self.refused: list[TraceRequest] = []

    def recorded(self, record: DecisionRecord, received: Received) -> None:
        if record.outcome == "finished":
            self._records[record.request_id] = record
            self._has_come.set()

    async def send(self, number: int, asked: TraceRequest) -> None:
        """Send one request and wait for its answer; one that is refused is noted."""
        options: GenerateOptions = {
            "model": self._model,
            "max_tokens": asked.output_tokens,
            "ignore_eos": True,
            "temperature": 0.0,
            "priority": int(asked.priority),
        }
        if slo := asked.slo.model_dump(exclude_none=True):
            options["slo"] = slo
        if asked.cost_budget is not None:
            options["cost_budget"] = asked.cost_budget
        prompt = [token % self._vocab for token in prompts(1, asked.prompt_tokens, number)[0]]
        try:
            answer = await self._client.generate(prompt, **options)
        except SageError as error:
            if error.code not in REFUSALS:
                raise
            self.refused.append(asked)
        else:
            self._ids[asked.request_id] = answer.id

    async def all_records(self) -> dict[str, DecisionRecord]:
        """Wait for the records of all answers; return them by the trace's ids."""
        while not set(self._ids.values()) <= self._records.keys():
            self._has_come.clear()
            await self._has_come.wait()
        return {asked: self._records[given] for asked, given in self._ids.items()}


async def play(stack: Stack, model: str, vocab: int, trace: Trace) -> Live:
    """Send the requests of a trace when they are due; return when all are over and recorded."""
    bus = await Bus.connect(BusSettings(nats_url=stack.plan.nats_url), "bench")
    client = AsyncNatsClient(stack.plan.nats_url)
    player = _Player(client, model, vocab)
    steps: dict[str, list[StepSample]] = {}

    def reported(report: EngineReport, received: Received) -> None:
        steps.setdefault(report.engine_id, []).extend(report.steps)

    try:
        await bus.subscribe(bus.settings.subjects.decision("*"), DecisionRecord, player.recorded)
        await bus.subscribe(bus.settings.subjects.engine_metrics("*"), EngineReport, reported)
        bucket = await bus.bucket(bus.settings.subjects.bucket("engines"), ttl_s=ENGINES_TTL_S)
        registrations = await bucket.read_all(EngineRegistration)
        await player.send(0, WARM_UP)
        start = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number, asked in enumerate(trace.requests):
                await asyncio.sleep(max(0.0, start + asked.at - time.monotonic()))
                group.create_task(player.send(number + 1, asked))
        seconds = time.monotonic() - start
        records = await player.all_records()
        records.pop(WARM_UP.request_id)
        return Live(records, player.refused, steps, registrations, seconds)
    finally:
        await client.aclose()
        await bus.close()
