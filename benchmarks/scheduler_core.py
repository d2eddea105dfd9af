"""Decisions of the scheduler core alone: how many a second, and how long one takes, with 10 to 1,000 engines.

Each measured event is a submit that ends in an assignment with its decision record. Between two submits a request
ends and an engine reports, as in steady state, outside the measured time but within the total of the rate. With
`promises` there is all that costs time: SLOs, self-benchmarks, hand-offs. In a full fleet the end and the report are
measured by which the head of a queue gets a place.
`python -m benchmarks.scheduler_core` prints the table.
"""

import time
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sagellm_common.contracts.engines import EngineRegistration
from sagellm_common.contracts.events import RequestEvent
from sagellm_common.contracts.reports import EngineReport, Gauges
from sagellm_common.contracts.scheduling import Assignment, Submit
from sagellm_common.contracts.slo import NO_SLO, Slo
from sagellm_scheduler.core import events
from sagellm_scheduler.core.actions import Assign
from sagellm_scheduler.core.config import CoreConfig
from sagellm_scheduler.core.machine import SchedulerCore
from sagellm_scheduler.queueing.policy import QUEUE_POLICIES
from sagellm_scheduler.routing.router import ROUTERS

FLEETS = (10, 100, 1000)
NUM_DECISIONS = 3000
SLOTS = 128
MANY_OPEN = 100_000
BACKLOG_S = 1e6
"""Thousands of requests come at once to fill the engines: none shall wait for room."""
EPOCH = (1, 1)
PROMISED = Slo(ttft_ms=2000.0, itl_ms=50.0)
STEPS = tuple(
    (0.005 + 1e-4 * prefill + 1e-4 * decode, prefill + decode, prefill, decode, 20 * decode, 0)
    for prefill in (0, 16, 256, 1024)
    for decode in (1, 8, 32)
)
"""A self-benchmark."""
NUM_QUEUED, FEW_SLOTS = 1000, 4


def make_core(num_engines: int, router: str, *, promises: bool = False, slots: int = SLOTS) -> SchedulerCore:
    """Return a leading core that knows so many idle engines of one model."""
    config = CoreConfig(
        scheduler_id="bench",
        queue=QUEUE_POLICIES.make("slo_aware" if promises else "fifo"),
        router=ROUTERS.make(router),
        backlog_s=BACKLOG_S,
        default_slo=PROMISED if promises else NO_SLO,
        admission_slack=None,
    )
    core = SchedulerCore(config)
    core.handle(events.BusUp(), 0.0)
    core.handle(events.LeadershipGained(EPOCH), 0.0)
    for number in range(num_engines):
        core.handle(events.EngineRegistered(_registration(number, promises, slots)), 0.0)
        core.handle(events.EngineReported(_report(f"e{number}", 1, 0, 0)), 0.0)
    return core


def _registration(number: int, promises: bool, slots: int) -> EngineRegistration:
    return EngineRegistration(
        benchmark=STEPS if promises else (),
        handoff="nixl" if promises else "",
        kv_bytes_per_token=131_072 if promises else 0,
        engine_id=f"e{number}",
        incarnation="i",
        models=("m",),
        backend="mock",
        kind="mock",
        max_model_len=8192,
        page_size=16,
        num_pages=8192,
        max_num_seqs=slots,
        max_batch_tokens=4096,
    )


def _report(engine_id: str, number: int, running: int, last: int) -> EngineReport:
    gauges = Gauges(8192, 8192 - 40 * running, 0, 0, running, 0, 640 * running, 0.9)
    return EngineReport(engine_id, "i", number, gauges, list(EPOCH), last)


class _Load:
    """Steady state: half of all slots are taken; each new request is followed by an end and a report."""

    def __init__(self, core: SchedulerCore, num_engines: int) -> None:
        self.core, self.now, self.count = core, 0.0, 0
        self.open: deque[Assignment] = deque()
        self.running = dict.fromkeys((f"e{number}" for number in range(num_engines)), 0)
        self.last = dict.fromkeys(self.running, 0)

    def submit(self) -> tuple[float, float]:
        """Submit one request; return the seconds that the core took."""
        self.count += 1
        self.now += 1e-4
        event = events.Submitted(
            Submit(
                request_id=f"r{self.count}",
                gateway_id="g",
                model="m",
                prompt_tokens=512,
                max_tokens=128,
                user=f"u{self.count % 997}",
                prefix_hash=self.count % 1009 + 1,
            )
        )
        return self._handle(event)

    def settle(self) -> tuple[float, float]:
        """End the oldest request and let its engine report; return the seconds that the core took."""
        ended = self.open.popleft()
        engine_id = ended.engine_id
        self.running[engine_id] -= 1
        event = RequestEvent(request_id=ended.request_id, phase="finished", completion_tokens=128)
        report = _report(engine_id, self.count + 1, self.running[engine_id], self.last[engine_id])
        return self._handle(events.RequestEnded(event), events.EngineReported(report))

    def _handle(self, *told: events.Event) -> tuple[float, float]:
        """Tell the core, and take its assignments; return the seconds by the clock and of this thread's computing."""
        began_cpu, began = time.thread_time(), time.perf_counter()
        actions = [action for event in told for action in self.core.handle(event, self.now)]
        took = time.perf_counter() - began, time.thread_time() - began_cpu
        for action in actions:
            if isinstance(action, Assign):
                made = action.assignment
                self.open.append(made)
                self.running[made.engine_id] += 1
                self.last[made.engine_id] = made.number
                if made.prefill is not None:
                    self.last[made.prefill.engine_id] = made.prefill.number
        return took


def measure(
    num_engines: int,
    router: str = "predictive",
    num_decisions: int = NUM_DECISIONS,
    num_open: int | None = None,
    *,
    promises: bool = False,
) -> dict[str, float]:
    """Return decisions a second (ends and reports included) and microseconds per decision, p50 and p99, with so many
    requests open (None: half of all slots, 2,000 at most).

    `cpu_p99_us` counts computing only: on a machine with busy neighbours the clock counts their time slices too.
    """
    load = _Load(make_core(num_engines, router, promises=promises), num_engines)
    for _ in range(num_open or min(num_engines * SLOTS // 2, 2000)):
        load.submit()
    took = np.empty((num_decisions, 2))
    began = time.perf_counter()
    for index in range(num_decisions):
        took[index] = load.submit()
        load.settle()
    return _figures(took, time.perf_counter() - began)


def measure_queued(num_engines: int, num_decisions: int = NUM_DECISIONS) -> dict[str, float]:
    """Return the same of placing the head of a queue of `NUM_QUEUED` when one of engines that are full has a place."""
    load = _Load(make_core(num_engines, "predictive", promises=True, slots=FEW_SLOTS), num_engines)
    for _ in range(num_engines * FEW_SLOTS + NUM_QUEUED):
        load.submit()
    took = np.empty((num_decisions, 2))
    began = time.perf_counter()
    for index in range(num_decisions):
        load.submit()
        took[index] = load.settle()
    if len(load.open) != num_engines * FEW_SLOTS:
        raise RuntimeError(f"{len(load.open)} requests are placed in {num_engines * FEW_SLOTS} places")
    return _figures(took, time.perf_counter() - began)


def _figures(took: NDArray[np.float64], total: float) -> dict[str, float]:
    num_decisions = len(took)
    p50, p99 = np.percentile(took, [50, 99], axis=0) * 1e6
    return {
        "decisions_per_s": round(num_decisions / total),
        "p50_us": round(p50[0], 1),
        "p99_us": round(p99[0], 1),
        "cpu_p99_us": round(p99[1], 1),
    }


def run() -> dict[str, Any]:
    """Measure all fleets with the default router, and the largest with every router."""
    result: dict[str, Any] = {str(number): measure(number) for number in FLEETS}
    result["routers_at_1000"] = {router: measure(1000, router, 1000) for router in ROUTERS.known()}
    result[f"open_{MANY_OPEN}"] = measure(1000, num_open=MANY_OPEN)
    result["promises"] = measure(1000, promises=True)
    result["queued"] = measure_queued(1000)
    return result


def main() -> None:
    """Print the table."""
    result = run()
    print(f"{'':>24}{'decisions/s':>14}{'p50 µs':>10}{'p99 µs':>10}{'CPU p99 µs':>12}")
    rows = [(f"{number} engines", result[str(number)]) for number in FLEETS]
    rows.append((f"1000, {MANY_OPEN:,} open", result[f"open_{MANY_OPEN}"]))
    rows += [("1000, promises", result["promises"]), (f"1000, {NUM_QUEUED:,} queued", result["queued"])]
    rows += [(f"1000, {router}", row) for router, row in result["routers_at_1000"].items()]
    for name, row in rows:
        print(
            f"{name:>24}{row['decisions_per_s']:>14,.0f}{row['p50_us']:>10.1f}{row['p99_us']:>10.1f}{row['cpu_p99_us']:>12.1f}"
        )


if __name__ == "__main__":
    main()
