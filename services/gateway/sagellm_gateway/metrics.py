"""Metrics of the gateway; the aliases are the names of vLLM's public contract."""

from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from sagellm_common.contracts.slo import Slo
from sagellm_common.telemetry.metrics import alias
from sagellm_common.version import __version__
from sagellm_gateway.core.request import Outcome

TTFT_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
ITL_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10, 20, 40)
E2E_S = (0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960)

ALIASES = {
    "sagellm_time_to_first_token_seconds": "vllm:time_to_first_token_seconds",
    "sagellm_inter_token_latency_seconds": "vllm:inter_token_latency_seconds",
    "sagellm_e2e_request_latency_seconds": "vllm:e2e_request_latency_seconds",
    "sagellm_request_queue_time_seconds": "vllm:request_queue_time_seconds",
    "sagellm_prompt_tokens": "vllm:prompt_tokens",
    "sagellm_generation_tokens": "vllm:generation_tokens",
    "sagellm_request_success": "vllm:request_success",
}
OLD_ALIASES = {"sagellm_inter_token_latency_seconds": "vllm:time_per_output_token_seconds"}

# What counts as met where a request states no objective.
DEFAULT_SLO = Slo(ttft_ms=2000.0, itl_ms=200.0)


class BulkHistogram(Collector):
    """A histogram that takes many values at once: about 0.2 µs a value, for what happens per token."""

    def __init__(self, name: str, documentation: str, bounds: Sequence[float]) -> None:
        self._name, self._documentation, self._bounds = name, documentation, bounds
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}

    def observe(self, model: str, values: Sequence[float]) -> None:
        """Count `values` under the label `model_name`."""
        counts = self._counts.setdefault(model, [0] * (len(self._bounds) + 1))
        for value in values:
            counts[bisect_left(self._bounds, value)] += 1
        self._sums[model] = self._sums.get(model, 0.0) + sum(values)

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._name, self._documentation, labels=["model_name"])
        for model, counts in list(self._counts.items()):
            buckets, total = [], 0
            for bound, count in zip([*map(str, self._bounds), "+Inf"], counts, strict=True):
                total += count
                buckets.append((str(float(bound)) if bound != "+Inf" else bound, total))
            family.add_metric([model], buckets, self._sums[model])
        yield family


class _Repairs(Collector):
    """What the lifecycle dropped or repaired, by kind."""

    def __init__(self, counts: Counts[str]) -> None:
        self._counts = counts

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(
            "sagellm_gateway_repairs", "what was dropped or repaired between bus and clients", labels=["kind"]
        )
        for kind, count in sorted(dict(self._counts).items()):
            family.add_metric([kind], count)
        yield family


class GatewayMetrics:
    """All metrics of one gateway; `exposed` is what `/metrics` shows."""

    def __init__(self, repairs: Counts[str], drops: Counts[str]) -> None:
        """`repairs` and `drops` are the live counters of the lifecycle and of the bus."""
        registry = CollectorRegistry()
        model = ["model_name"]
        self.ttft = Histogram("sagellm_time_to_first_token_seconds", "TTFT", model, buckets=TTFT_S, registry=registry)
        self.itl = BulkHistogram("sagellm_inter_token_latency_seconds", "time between tokens of one choice", ITL_S)
        self.e2e = Histogram(
            "sagellm_e2e_request_latency_seconds", "acceptance to end", model, buckets=E2E_S, registry=registry
        )
        self.queue = Histogram(
            "sagellm_request_queue_time_seconds", "acceptance to assignment", model, buckets=TTFT_S, registry=registry
        )
        self.prompt_tokens = Counter("sagellm_prompt_tokens", "prompt tokens accepted", model, registry=registry)
        self.tokens = Counter("sagellm_generation_tokens", "tokens delivered", model, registry=registry)
        self.success = Counter(
            "sagellm_request_success", "choices by how they finished", [*model, "finished_reason"], registry=registry
        )
        self.failed = Counter(
            "sagellm_request_failures", "requests that failed, by code", [*model, "code"], registry=registry
        )
        self.slo = Counter(
            "sagellm_slo_requests",
            "requests by objective and whether it was met",
            ["objective", "met"],
            registry=registry,
        )
        self.open = Gauge("sagellm_gateway_open_requests", "requests accepted and not ended", registry=registry)
        registry.register(self.itl)
        registry.register(_Repairs(repairs))
        self._describe(registry, drops)
        self.exposed = alias(alias(registry, ALIASES), OLD_ALIASES)

    def _describe(self, registry: CollectorRegistry, drops: Counts[str]) -> None:
        dropped = Gauge("sagellm_bus_dropped_messages", "messages lost to full subscriptions", registry=registry)
        dropped.set_function(lambda: float(drops.total()))
        build = Gauge("sagellm_build_info", "version of this process", ["version"], registry=registry)
        build.labels(__version__).set(1)

    def ended(self, model: str, prompt_tokens: int, slo: Slo, outcome: Outcome) -> None:
        """Count a request that has ended."""
        self.prompt_tokens.labels(model).inc(prompt_tokens)
        self.tokens.labels(model).inc(outcome.completion_tokens)
        if outcome.queue_s is not None:
            self.queue.labels(model).observe(outcome.queue_s)
        if outcome.ttft_s is not None:
            self.ttft.labels(model).observe(outcome.ttft_s)
        self.itl.observe(model, outcome.gaps_s)
        if outcome.error is not None:
            self.failed.labels(model, outcome.error.code).inc()
            return
        self.e2e.labels(model).observe(outcome.e2e_s)
        for reason in outcome.finish_reasons:
            self.success.labels(model, reason).inc()
        self._judge(slo, outcome)

    def _judge(self, slo: Slo, outcome: Outcome) -> None:
        mean_gap_s = sum(outcome.gaps_s) / len(outcome.gaps_s) if outcome.gaps_s else None
        self._count("ttft", slo.ttft_ms or DEFAULT_SLO.ttft_ms, outcome.ttft_s)
        self._count("itl", slo.itl_ms or DEFAULT_SLO.itl_ms, mean_gap_s)
        self._count("deadline", slo.deadline_ms, outcome.e2e_s)

    def _count(self, objective: str, limit_ms: float | None, measured_s: float | None) -> None:
        if limit_ms is not None and measured_s is not None:
            self.slo.labels(objective, str(measured_s * 1000 <= limit_ms).lower()).inc()
