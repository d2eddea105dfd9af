"""A gateway without bus or engines: each request plays what the test scripted."""

import asyncio
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter

from sagellm_common.contracts.generate import FinishReason, GenerateRequest, TokenLogprob, Usage
from sagellm_common.errors import SageError
from sagellm_gateway.generation.api import Delta, ServedModel

Step = list[Delta] | Exception | asyncio.Event


def tokens(*texts: str, choice: int = 0, finish: FinishReason = "stop") -> list[Step]:
    """One step for each text, the last with the finish reason."""
    deltas = [Delta(choice, text, [i]) for i, text in enumerate(texts)]
    deltas[-1].finish_reason = finish
    return [[delta] for delta in deltas]


def logprob(token: str, value: float = -0.5, *top: str) -> TokenLogprob:
    """A token's log-probability, with alternatives."""
    others = [TokenLogprob(token=text, token_id=9, logprob=-math.inf) for text in top]
    return TokenLogprob(token=token, token_id=1, logprob=value, top=others)


class FakeGeneration:
    """Plays its steps: deltas are given, an error is raised, an event is waited for."""

    model = "fake/model-1.0"
    created = 1_700_000_000
    prompt_tokens = 3

    def __init__(self, request_id: str, steps: list[Step]) -> None:
        self.request_id = request_id
        self.num_given = 0
        self.num_tokens = 0
        self.cancelled = asyncio.Event()
        self.cancel_reason = ""
        self._steps = iter(steps)

    @property
    def usage(self) -> Usage:
        return Usage(prompt_tokens=self.prompt_tokens, completion_tokens=self.num_tokens, cached_tokens=2)

    def __aiter__(self) -> AsyncIterator[list[Delta]]:
        return self

    async def __anext__(self) -> list[Delta]:
        for step in self._steps:
            if isinstance(step, Exception):
                raise step
            if isinstance(step, list):
                self.num_given += 1
                self.num_tokens += sum(len(delta.token_ids) for delta in step)
                return step
            try:
                await step.wait()
            except asyncio.CancelledError:
                await self.cancel("the iterating task was cancelled")
                raise
        raise StopAsyncIteration

    async def cancel(self, reason: str) -> None:
        self.cancel_reason = self.cancel_reason or reason
        self.cancelled.set()


@dataclass
class FakeGateway:
    """Implements `Gateway`. `scripts` are played in the order of the requests, the last one again and again."""

    scripts: list[list[Step]] = field(default_factory=lambda: [tokens("Hello", " world", "!")])
    refusal: SageError | Exception | None = None
    queue: asyncio.Event | None = None
    """If set, `submit` waits for it."""
    not_ready: str = ""
    draining: bool = False
    requests: list[GenerateRequest] = field(default_factory=list)
    generations: list[FakeGeneration] = field(default_factory=list)
    submitting: asyncio.Event = field(default_factory=asyncio.Event)
    submit_cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        Counter("sagellm_fake", "A counter to be scraped", registry=self.registry).inc()

    async def submit(self, request: GenerateRequest) -> FakeGeneration:
        index = len(self.requests)
        self.requests.append(request)
        self.submitting.set()
        if self.queue is not None:
            try:
                await self.queue.wait()
            except asyncio.CancelledError:
                self.submit_cancelled.set()
                raise
        if self.refusal is not None:
            raise self.refusal
        generation = FakeGeneration(f"request{index}", self.scripts[min(index, len(self.scripts) - 1)])
        self.generations.append(generation)
        return generation

    def models(self) -> list[ServedModel]:
        return [ServedModel("fake/model-1.0", max_model_len=4096, created=1_700_000_000, engines=("e1",))]

    def ready(self) -> tuple[bool, str]:
        return not self.not_ready, self.not_ready
