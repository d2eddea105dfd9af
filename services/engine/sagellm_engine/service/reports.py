"""When an engine reports, and what. Plain: no clock, no bus."""

from collections import deque
from collections.abc import Callable, Iterable

from sagellm_common.contracts.reports import EngineReport, Gauges, Progress, StepSample
from sagellm_engine.core.types import EngineGauges, StepReport
from sagellm_engine.service.assignments import NOTHING

MIN_INTERVAL_S = 0.1
BUSY_WINDOW_S = 1.0
MAX_SAMPLES = 1024
MAX_PROGRESS = 8192


class Reporter:
    """Collects step samples and gauges. Reports are due every `heartbeat_s`, every 0.1 s while steps are made.

    `gauges` know of the assignments up to `mark`, and so much is acknowledged: a scheduler counts the rest itself.
    `num_expected` tells how many requests wait for what another engine prefills: they wait here like others.
    `kv_number` tells the number of the last event of the prefix cache.
    """

    def __init__(self, engine_id: str, incarnation: str, heartbeat_s: float, gauges: EngineGauges) -> None:
        self._engine_id, self._incarnation, self._heartbeat_s = engine_id, incarnation, heartbeat_s
        self.gauges, self.mark = gauges, NOTHING
        self.num_expected: Callable[[], int] = lambda: 0
        self.kv_number: Callable[[], int] = lambda: 0
        self._samples: deque[StepSample] = deque(maxlen=MAX_SAMPLES)
        self._steps: deque[tuple[float, float]] = deque()
        self._in_steps_s = 0.0
        self._number = 0
        self._last_report = self._last_heartbeat = float("-inf")

    def add_step(self, report: StepReport, now: float) -> None:
        """Note a step that computed something; the oldest samples are dropped while nobody can be told."""
        self._samples.append(
            StepSample(
                report.duration_s,
                report.rows,
                report.prefill_tokens,
                report.decode_seqs,
                report.context_tokens,
                report.chunk_x_context,
                report.cached_tokens,
                report.preemptions,
            )
        )
        self._steps.append((now, report.duration_s))
        self._in_steps_s += report.duration_s
        self._forget_old_steps(now)

    def heartbeat_due(self, now: float) -> bool:
        """Return whether the next report must be a heartbeat."""
        return now - self._last_heartbeat >= self._heartbeat_s

    def due(self, now: float) -> bool:
        """Return whether something should be reported."""
        return self.heartbeat_due(now) or (bool(self._samples) and now - self._last_report >= MIN_INTERVAL_S)

    def report(self, now: float, state: str) -> EngineReport:
        """Return what is new since the last report; to be published."""
        self._last_report = now
        self._number += 1
        steps = list(self._samples)
        self._samples.clear()
        return EngineReport(
            self._engine_id,
            self._incarnation,
            self._number,
            self._gauges(now),
            list(self.mark[0]),
            self.mark[1],
            state,
            steps,
            kv_number=self.kv_number(),
        )

    def heartbeat(self, now: float, state: str, progress: Iterable[tuple[str, Progress]]) -> list[EngineReport]:
        """Return a report with the progress of every request, in several reports if it is much."""
        self._last_heartbeat = now
        reports = [self.report(now, state)]
        for count, (gateway_id, entry) in enumerate(progress):
            if count and count % MAX_PROGRESS == 0:
                reports.append(self.report(now, state))
            reports[-1].progress.setdefault(gateway_id, []).append(entry)
        return reports

    def _gauges(self, now: float) -> Gauges:
        self._forget_old_steps(now)
        gauges, expected = self.gauges, self.num_expected()
        return Gauges(
            gauges.pages_total,
            gauges.pages_free,
            gauges.pages_cached,
            gauges.waiting + expected,
            gauges.running,
            gauges.waiting_tokens,
            gauges.running_tokens,
            min(1.0, self._in_steps_s / BUSY_WINDOW_S),
            gauges.prefilling,
            gauges.prefill_tokens,
            gauges.itl_limit_s,
            gauges.leaving,
            gauges.leaving_tokens,
            expected,
        )

    def _forget_old_steps(self, now: float) -> None:
        steps = self._steps
        while steps and steps[0][0] < now - BUSY_WINDOW_S:
            self._in_steps_s -= steps.popleft()[1]
        if not steps:
            self._in_steps_s = 0.0  # rounding must not add up
