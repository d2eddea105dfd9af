"""Metrics of the scheduler that say how well it knows its engines."""

import random
from dataclasses import replace

import pytest

from sagellm_common.contracts.reports import StepSample
from sagellm_scheduler.core import events
from sagellm_scheduler.metrics import SchedulerMetrics
from support.scheduling import Driver, report


def test_how_far_steps_are_off_is_shown_by_kind() -> None:
    """Steps last as predicted in the median, but for one engine whose steps scatter: nine of ten take up to that much
    longer."""
    driver = Driver.leading()
    chance = random.Random(0)
    benchmark = tuple((8e-3 + 1e-4 * p + 2e-4 * d, p + d, p, d, 0, 0) for p in (0, 64, 256) for d in (1, 8, 32))
    for name in ("even", "scattered"):
        driver.engine(name, kind=name, benchmark=benchmark)
    for number in range(2, 80):
        steps = [(8e-3 + 2e-4 * d, d, 0, d, 0, 0) for d in (1, 8, 16, 32)]
        for name, width in (("even", 0.0), ("scattered", 0.2)):
            taken = [StepSample(seconds * chance.uniform(1 - width, 1 + width), *rest) for seconds, *rest in steps]
            said = replace(report(driver.engines[name], number), steps=taken)
            driver.feed(events.EngineReported(said))
        driver.now += 1.0
    metrics = SchedulerMetrics()
    metrics.observe(driver.core)

    def ratio(kind: str, quantile: str) -> float | None:
        labels = {"kind": kind, "quantile": quantile}
        return metrics.registry.get_sample_value("sagellm_scheduler_step_time_ratio", labels)

    assert ratio("even", "0.9") == pytest.approx(1.0, abs=0.01)
    assert ratio("scattered", "0.5") == pytest.approx(1.0, abs=0.05)
    assert ratio("scattered", "0.9") == pytest.approx(1.16, abs=0.04)
