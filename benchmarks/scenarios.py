"""The four ways in which people use a deployment, each in simulation and on a live stack of mock engines.

Batch, low latency, mixed priorities, cost: each is played by the policy made for it and by what it is compared with.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from benchmarks.replay import Live, play
from benchmarks.ways import Way
from sagellm_common.contracts.slo import NO_SLO, Priority, Slo
from sagellm_simulation.specs import MOCK, EngineSpec
from sagellm_simulation.trace import Trace, TraceRequest
from sagellm_simulation.world import Result, simulate

SLOTS = 32
PRICE_PER_HOUR = 36.0
ENGINE = replace(MOCK, max_num_seqs=SLOTS, max_model_len=32_768, max_batch_tokens=2048, price_per_hour=PRICE_PER_HOUR)
MOCK_ENV = {
    "SAGELLM_MOCK_STEP_MS": str(1e3 * ENGINE.base),
    "SAGELLM_MOCK_PREFILL_MS_PER_TOKEN": str(1e3 * ENGINE.prefill),
    "SAGELLM_MOCK_DECODE_MS_PER_SEQ": str(1e3 * ENGINE.decode),
    "SAGELLM_MAX_NUM_SEQS": str(SLOTS),
    "SAGELLM_MAX_BATCH_TOKENS": str(ENGINE.max_batch_tokens),
    "SAGELLM_PRICE_PER_HOUR": str(PRICE_PER_HOUR),
    "SAGELLM_ADMISSION_SLACK": "",
    "SAGELLM_MAX_QUEUE_TIME_S": "600",
}


@dataclass(frozen=True, slots=True)
class Case:
    """A trace, and the deployments it is played on, the last being the one made for it; `group` names the kind of each
    request, by which results are told apart."""

    name: str
    trace: Trace
    ways: tuple[Way, ...]
    group: Callable[[TraceRequest], str] = field(default=lambda asked: "all")


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of one request; times in ms."""

    asked: TraceRequest
    ttft_ms: float | None = None
    itl_ms: float | None = None
    e2e_ms: float | None = None

    @property
    def is_refused(self) -> bool:
        return self.e2e_ms is None


def batch() -> Case:
    """256 prompts at once: one engine, and four with the data divided between them."""
    chance = random.Random(1)
    trace = _trace((0.0, chance.randrange(200, 800), chance.randrange(50, 150)) for _ in range(256))
    return Case("1 batch", trace, (Way("one engine"), Way("fifo, four engines", engines=4)))


def low_latency() -> Case:
    """Chats, and long documents among them: two engines that do both, and one for prompts and one for answers."""
    chance = random.Random(2)
    requests, at = [], 0.0
    for number in range(240):
        at += chance.expovariate(10.0)
        is_long = number % 10 == 0
        requests.append((at, 4000 if is_long else chance.randrange(50, 200), 32 if is_long else 96))
    slo = Slo(ttft_ms=1000.0, itl_ms=16.0)
    ways = (
        Way("fifo, nothing promised", engines=2, default_slo=slo, promised=False),
        Way(
            "slo_aware, prefill apart",
            queue="slo_aware",
            router="predictive",
            pd="adaptive",
            roles=("prefill", "decode"),
            engines=2,
            default_slo=slo,
        ),
    )
    return Case(
        "2 low latency", _trace(requests), ways, lambda asked: "document" if asked.prompt_tokens > 1000 else "chat"
    )


def mixed() -> Case:
    """Three times as much as the engine can do for ten seconds; a tenth of it is critical and asks for 500 ms."""
    chance = random.Random(3)
    requests, at = [], 0.0
    for number in range(300):
        at += chance.expovariate(30.0)
        made = TraceRequest(
            request_id=f"r{number}",
            at=at,
            prompt_tokens=chance.randrange(100, 500),
            output_tokens=chance.randrange(30, 90),
        )
        is_critical = number % 10 == 0
        priority = Priority.CRITICAL if is_critical else Priority.LOW
        requests.append(replace(made, priority=priority, slo=Slo(ttft_ms=500.0) if is_critical else NO_SLO))
    ways = (Way("fifo"), Way("priority", queue="priority"))
    return Case("3 mixed priorities", Trace("mixed", requests), ways, lambda asked: asked.priority.name)


def cost() -> Case:
    """More than the engine can do; each request may cost 0.01, a second of an engine: dear ones are refused with the
    estimate, and the cheap go first."""
    chance = random.Random(4)
    requests, at = [], 0.0
    for number in range(240):
        at += chance.expovariate(24.0)
        is_dear = number % 12 == 0
        prompt = 15_000 if is_dear else chance.randrange(50, 1500)
        requests.append(
            TraceRequest(
                request_id=f"r{number}",
                at=at,
                prompt_tokens=prompt,
                output_tokens=chance.randrange(20, 120),
                cost_budget=0.01,
            )
        )
    ways = (Way("fifo"), Way("cost_optimized", queue="cost_optimized"))
    return Case(
        "4 cost", Trace("cost", requests), ways, lambda asked: "dear" if asked.prompt_tokens > 10_000 else "cheap"
    )


CASES = (batch, low_latency, mixed, cost)


def _trace(rows: Any) -> Trace:
    return Trace(
        "made-up",
        [
            TraceRequest(request_id=f"r{number}", at=at, prompt_tokens=prompt, output_tokens=output)
            for number, (at, prompt, output) in enumerate(rows)
        ],
    )


def simulated(case: Case, way: Way) -> tuple[list[Seen], float]:
    """What becomes of the requests in simulation, and seconds from first to last."""
    roles = way.roles or ("hybrid",)
    engines: tuple[EngineSpec, ...] = tuple(
        replace(ENGINE, role=roles[number % len(roles)], kv_bytes_per_token=8 if way.roles else 0)  # type: ignore[arg-type] # roles are EngineRoles
        for number in range(way.engines)
    )
    result: Result = simulate(way.scenario(engines), case.trace)
    seen = [
        Seen(item.asked, _ms(item.ttft_s), _ms(item.itl_s), _ms(item.e2e_s))
        if item.phase == "finished"
        else Seen(item.asked)
        for item in result.ended
    ]
    return seen, result.seconds


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


async def lived(case: Case, way: Way) -> tuple[list[Seen], float]:
    """What becomes of the requests on a live stack."""
    async with way.running("mock", "mock-model", MOCK_ENV) as stack:
        live: Live = await play(stack, "mock-model", 1000, case.trace)
    by_id = {asked.request_id: asked for asked in case.trace.requests}
    seen = [Seen(by_id[name], r.ttft_ms, r.itl_ms, r.e2e_ms) for name, r in live.records.items()]
    return [*seen, *(Seen(asked) for asked in live.refused)], live.seconds


def figures(case: Case, way: Way, seen: list[Seen], seconds: float) -> dict[str, Any]:
    """Of all: tokens a second; of each group: how many, how many refused, times, share within its SLO."""
    served = [item for item in seen if not item.is_refused]
    groups: dict[str, dict[str, Any]] = {}
    for name in sorted({case.group(item.asked) for item in seen}):
        members = [item for item in seen if case.group(item.asked) == name]
        groups[name] = {
            "requests": len(members),
            "refused": sum(item.is_refused for item in members),
            "ttft_p50_ms": _quantile([item.ttft_ms for item in members], 0.5),
            "ttft_p95_ms": _quantile([item.ttft_ms for item in members], 0.95),
            "itl_p95_ms": _quantile([item.itl_ms for item in members], 0.95),
            "e2e_p50_ms": _quantile([item.e2e_ms for item in members], 0.5),
            "met": round(sum(_met(item, way.default_slo) for item in members) / len(members), 3),
        }
    tokens = sum(item.asked.output_tokens for item in served)
    return {"seconds": round(seconds, 2), "tokens_per_s": round(tokens / seconds, 1), "groups": groups}


def _met(item: Seen, default: Slo) -> bool:
    ttft, itl = item.asked.slo.ttft_ms or default.ttft_ms, item.asked.slo.itl_ms or default.itl_ms
    pairs = ((item.ttft_ms, ttft), (item.itl_ms, itl))
    return not item.is_refused and all(limit is None or value is None or value <= limit for value, limit in pairs)


def _quantile(values: list[float | None], quantile: float) -> float | None:
    known = [value for value in values if value is not None]
    return round(float(np.quantile(known, quantile)), 1) if known else None


async def run() -> dict[str, Any]:
    """All cases and ways."""
    found: dict[str, Any] = {}
    for make in CASES:
        case = make()
        found[case.name] = {}
        for way in case.ways:
            rows = {
                "simulated": figures(case, way, *simulated(case, way)),
                "live": figures(case, way, *await lived(case, way)),
            }
            print(f"  {case.name}, {way.name}: {rows}", flush=True)
            found[case.name][way.name] = rows
    return found
