"""Simulated engines: equal to the real engine's core under the same time model, and many steps at once equal to one by
one."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from sagellm_common.contracts.dispatch import Dispatch
from sagellm_common.contracts.frames import TokenItem
from sagellm_common.contracts.kv import KvEvents
from sagellm_common.contracts.reports import EngineReport
from sagellm_common.contracts.sampling import SamplingOptions
from sagellm_common.contracts.slo import NO_SLO, Slo
from sagellm_engine.backends.mock import MockRunner
from sagellm_engine.core.config import EngineConfig, MockConfig
from sagellm_engine.core.engine import EngineCore
from sagellm_engine.transfer.lease import Message
from sagellm_simulation.engine import SimEngine
from sagellm_simulation.kernel import Kernel
from sagellm_simulation.specs import H200_8B, EngineSpec
from sagellm_simulation.trace import Trace, TraceRequest
from sagellm_simulation.world import Scenario, simulate
from support.engine import request

SMALL = EngineSpec(
    kind="small",
    base=5e-3,
    prefill=1e-4,
    decode=3e-4,
    context=2e-7,
    chunk_x_context=3e-8,
    num_pages=400,
    max_batch_tokens=256,
    max_num_seqs=16,
)


def trace(count: int, per_s: float, *, seed: int = 0, longest: int = 600, blocks: bool = False) -> Trace:
    """Requests of random lengths at random times; with `blocks` some prompts begin alike."""
    chance = random.Random(seed)
    at, requests = 0.0, []
    for number in range(count):
        at += chance.expovariate(per_s)
        prompt = chance.randrange(1, longest)
        family = chance.randrange(8)
        known = tuple(family * 1000 + place for place in range(prompt // 64)) if blocks else ()
        requests.append(
            TraceRequest(
                request_id=f"r{number}",
                at=at,
                prompt_tokens=prompt,
                output_tokens=chance.randrange(1, 120),
                blocks=known,
            )
        )
    return Trace("random", requests, block=64)


class Alone:
    """A simulated engine by itself: takes the requests of a trace as they come, and notes when tokens are told."""

    def __init__(self, spec: EngineSpec, asked: Trace, *, jump: bool) -> None:
        self.kernel = Kernel()
        self.first: dict[str, float] = {}
        self.last: dict[str, float] = {}
        self.num_tokens: Counter[str] = Counter()
        self.reports: list[EngineReport] = []
        workload = {item.request_id: item for item in asked.requests}
        self.engine = SimEngine(self.kernel, "e1", spec, workload, self, block=asked.block, heartbeat_s=0.5, jump=jump)
        for number, item in enumerate(asked.requests):
            self.kernel.at(item.at, self.engine.dispatch, self._body(item, number), lambda: None)
        self.kernel.run(1e5, done=lambda: len(self.last) == len(workload))

    def _body(self, item: TraceRequest, number: int) -> Dispatch:
        return Dispatch(
            request_id=item.request_id,
            epoch=0,
            gateway_id="g1",
            model="m",
            incarnation=self.engine.incarnation,
            leader_epoch=(1, 1),
            assignment_number=number,
            prompt_token_ids=[],
            sampling=SamplingOptions(),
        )

    def frame(self, engine: SimEngine, gateway_id: str, items: list[TokenItem]) -> None:
        for item in items:
            self.first.setdefault(item.request_id, self.kernel.now)
            self.num_tokens[item.request_id] += len(item.token_ids)
            if item.finish:
                self.last[item.request_id] = self.kernel.now

    def report(self, engine: SimEngine, report: EngineReport) -> None:
        self.reports.append(report)

    def lease(self, engine: SimEngine, to: str, message: Message) -> None:
        raise AssertionError("it is alone")

    def lives(self, incarnation: str) -> bool:
        return True

    def cache(self, engine: SimEngine, events: KvEvents) -> None:
        """Nobody listens."""


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("spec", [SMALL, H200_8B], ids=lambda spec: spec.kind)
def test_many_steps_at_once_are_equal_to_one_by_one(spec: EngineSpec, blocks: bool) -> None:
    """Of 500 requests, also where pages run short, every first and last token comes at the same time."""
    asked = trace(500, 8.0, blocks=blocks)
    fast, slow = (Alone(spec, asked, jump=jump) for jump in (True, False))
    assert len(fast.last) == 500
    assert fast.num_tokens == {item.request_id: item.output_tokens for item in asked.requests}
    for name in fast.last:
        assert fast.first[name] == pytest.approx(slow.first[name], rel=1e-9)
        assert fast.last[name] == pytest.approx(slow.last[name], rel=1e-9)


def test_a_jump_makes_far_fewer_messages() -> None:
    """The same 200 requests take a fraction of the token frames when steps are taken together."""
    asked = trace(200, 3.0)
    scenario = Scenario(engines=(H200_8B,), router="round_robin", backlog_s=1e9)
    assert simulate(scenario, asked).messages < simulate(replace(scenario, jump=False), asked).messages


class RealEngine:
    """The real core of an engine in virtual time; a step takes what the spec says of its report."""

    def __init__(self, spec: EngineSpec) -> None:
        self.now, self.spec = 0.0, spec
        config = EngineConfig(
            backend="mock",
            mock=MockConfig(vocab_size=100_000),
            num_pages=spec.num_pages,
            max_batch_tokens=spec.max_batch_tokens,
            max_num_seqs=spec.max_num_seqs,
            prefix_cache=False,
        )
        self.core = EngineCore(config, MockRunner(config), clock=lambda: self.now)

    def run(self, asked: Trace) -> tuple[dict[str, float], dict[str, float]]:
        """Return when the first and the last token of each request were made."""
        waiting = list(asked.requests)
        first: dict[str, float] = {}
        last: dict[str, float] = {}
        while waiting or self.core.has_work():
            while waiting and (waiting[0].at <= self.now or not self.core.has_work()):
                item = waiting.pop(0)
                self.now = max(self.now, item.at)
                prompt = [(int(item.request_id[1:]) * 7919 + place) % 100_000 for place in range(item.prompt_tokens)]
                self.core.submit(request(prompt, key=item.request_id, max_tokens=item.output_tokens), self.now)
            output = self.core.step(self.now)
            report = output.report
            self.now += self.spec.seconds(
                report.prefill_tokens, report.decode_seqs, report.context_tokens, report.chunk_x_context
            )
            for token in output.tokens:
                first.setdefault(token.key[0], self.now)
                last[token.key[0]] = self.now
        return first, last


@pytest.mark.parametrize("per_s", [2.0, 6.0, 12.0])
def test_a_simulated_engine_does_what_the_real_core_does(per_s: float) -> None:
    """From idle to short of slots and pages: every first and last token comes when the real core makes it."""
    asked = trace(300, per_s, longest=800)
    first, last = RealEngine(SMALL).run(asked)
    simulated = Alone(SMALL, asked, jump=True)
    assert set(last) == set(simulated.last)
    for item in asked.requests:
        name, at = item.request_id, item.at
        assert simulated.first[name] - at == pytest.approx(first[name] - at, rel=1e-9)
        assert simulated.last[name] - at == pytest.approx(last[name] - at, rel=1e-9)


def test_a_known_prefix_is_not_computed_again() -> None:
    """The second of two prompts that begin alike prefills only the rest."""
    blocks = tuple(range(100))
    requests = [
        TraceRequest(request_id=f"r{n}", at=n * 10.0, prompt_tokens=6500, output_tokens=2, blocks=blocks)
        for n in range(2)
    ]
    result = simulate(Scenario(engines=(H200_8B,)), Trace("shared", requests, block=64))
    assert result.tokens_prefilled == 6500 + 100
    assert result.tokens_cached == 6400
    first, second = (item.ttft_s or 0.0 for item in result.ended)
    assert second < first / 5


def test_what_is_known_of_a_prompt_that_waits_is_not_reported_as_work() -> None:
    """Behind a sequence that takes the only slot, a prompt of 608 tokens waits, of which 576 are in the cache."""
    asked = [("first", 0.0, 600, 1), ("runs", 10.0, 64, 400), ("waits", 10.5, 608, 1)]
    requests = [
        TraceRequest(
            request_id=name, at=at, prompt_tokens=prompt, output_tokens=answer, blocks=tuple(range(prompt // 64))
        )
        for name, at, prompt, answer in asked
    ]
    alone = Alone(replace(SMALL, max_num_seqs=1), Trace("known", requests, block=64), jump=True)
    waiting = [report.gauges for report in alone.reports if report.gauges.waiting]
    assert {gauges.waiting_tokens for gauges in waiting} == {608}
    assert {gauges.prefill_tokens for gauges in waiting} == {608 - 576}


def test_promised_answers_keep_their_pace_beside_long_prompts() -> None:
    """Prompts of 8,000 tokens among chats: without a promise some answers have more than 15 ms a token in the mean;
    where it is promised, none has, and prompts do not take half as long again."""
    chance = random.Random(1)
    requests, at = [], 0.0
    for number in range(400):
        at += chance.expovariate(16.0)
        prompt, answer = (8000, 20) if number % 8 == 0 else (100, chance.randrange(10, 60))
        requests.append(TraceRequest(request_id=f"r{number}", at=at, prompt_tokens=prompt, output_tokens=answer))
    scenario = Scenario(engines=(H200_8B,), queue="slo_aware", admission_slack=None)
    free, kept = (
        simulate(replace(scenario, slo=slo), Trace("mixed", requests)).ended for slo in (NO_SLO, Slo(itl_ms=15.0))
    )
    slow = [sum((item.itl_s or 0.0) > 0.015 for item in ended) for ended in (free, kept)]
    assert slow[0] > 10
    assert slow[1] == 0
    long = [sum(item.ttft_s or 0.0 for item in ended if item.asked.prompt_tokens == 8000) for ended in (free, kept)]
    assert long[1] < 1.5 * long[0]
