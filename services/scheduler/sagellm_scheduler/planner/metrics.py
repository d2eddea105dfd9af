"""Prometheus metrics of the planner: the newest plan of each model, and what was done about it."""

import math

from prometheus_client import CollectorRegistry, Counter, Gauge

from sagellm_common.contracts.plan import FleetPlan


class PlannerMetrics:
    """The planner's metrics in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.wanted = self._gauge("engines_wanted", "Engines that are wanted", "role")
        self.ready = self._gauge("engines_ready", "Engines that are ready")
        self.rate = self._gauge("requests_per_second", "Requests a second, as measured over ten minutes")
        self.expected = self._gauge(
            "expected_requests_per_second", "The most that is expected until engines would serve"
        )
        self.burst = self._gauge("burst_ratio", "How much more than the mean comes in half a minute")
        self.margin = self._gauge("margin_ratio", "How much more than computed is wanted, learnt from SLOs")
        self.attainment = self._gauge("slo_attainment_ratio", "Share of the SLOs met in the last five minutes")
        self.price = self._gauge("price_per_hour", "What the wanted engines cost an hour")
        self.scaled = Counter(
            "sagellm_planner_scaled", "Changes of a fleet", ["model", "role", "direction"], registry=self.registry
        )
        self.failures = Counter(
            "sagellm_planner_failures", "Plans not made, not kept or not followed", ["what"], registry=self.registry
        )

    def _gauge(self, name: str, about: str, *labels: str) -> Gauge:
        return Gauge(f"sagellm_planner_{name}", about, ["model", *labels], registry=self.registry)

    def planned(self, plan: FleetPlan) -> None:
        """Show a plan."""
        for role, count in plan.counts().items():
            self.wanted.labels(plan.model, role).set(count)
        figures = (
            (self.ready, plan.engines_now),
            (self.rate, plan.requests_per_s),
            (self.expected, plan.expected_per_s),
            (self.burst, plan.burst),
            (self.margin, plan.margin),
            (self.attainment, math.nan if plan.attainment is None else plan.attainment),
            (self.price, plan.price_per_hour),
        )
        for gauge, value in figures:
            gauge.labels(plan.model).set(value)

    def followed(self, model: str, role: str, before: int, after: int) -> None:
        """Count a change of a fleet."""
        self.scaled.labels(model, role, "more" if after > before else "fewer").inc()
