"""Prometheus metrics of an engine, also under the names of vLLM's public contract."""

from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sagellm_common.telemetry.metrics import alias
from sagellm_engine.core.types import EngineGauges, StepOutput
from sagellm_engine.service.entries import Entry

STEP_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
TOKEN_BUCKETS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)

Outcome = Literal["given", "taken", "recomputed"]

VLLM_NAMES = {
    "sagellm_engine_requests_running": "vllm:num_requests_running",
    "sagellm_engine_requests_waiting": "vllm:num_requests_waiting",
    "sagellm_engine_kv_usage_ratio": "vllm:kv_cache_usage_perc",
    "sagellm_engine_preemptions": "vllm:num_preemptions",
    "sagellm_engine_prefix_cache_queries": "vllm:prefix_cache_queries",
    "sagellm_engine_prefix_cache_hits": "vllm:prefix_cache_hits",
    "sagellm_engine_prompt_tokens": "vllm:prompt_tokens",
    "sagellm_engine_generation_tokens": "vllm:generation_tokens",
    "sagellm_engine_step_tokens": "vllm:iteration_tokens_total",
}


class EngineMetrics:
    """The metrics of one engine process, labelled with the model that it serves."""

    def __init__(self, model_name: str) -> None:
        own = CollectorRegistry()

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"sagellm_engine_{name}", text, ["model_name"], registry=own).labels(model_name)

        def counter(name: str, text: str) -> Counter:
            return Counter(f"sagellm_engine_{name}", text, ["model_name"], registry=own).labels(model_name)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            named = Histogram(f"sagellm_engine_{name}", text, ["model_name"], registry=own, buckets=buckets)
            return named.labels(model_name)

        self._running = gauge("requests_running", "Sequences that are being computed.")
        self._waiting = gauge("requests_waiting", "Sequences that wait for pages.")
        self._kv_usage = gauge("kv_usage_ratio", "Share of the KV pages that running sequences hold, 0 to 1.")
        self._preemptions = counter("preemptions", "Sequences that had to give their pages back.")
        self._queries = counter("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.")
        self._hits = counter("prefix_cache_hits", "Prompt tokens found in the prefix cache.")
        self._prompt_tokens = counter("prompt_tokens", "Prompt tokens of requests that got their first token.")
        self._generation_tokens = counter("generation_tokens", "Generated tokens.")
        self._step_tokens = histogram("step_tokens", "Tokens computed in a step.", TOKEN_BUCKETS)
        self._step_seconds = histogram("step_seconds", "Duration of a step.", STEP_BUCKETS_S)
        self._handoffs = Counter(
            "sagellm_engine_handoffs",
            "Prompts handed over between engines: given away, taken, or prefilled here after all.",
            ["model_name", "outcome"],
            registry=own,
        )
        self._model_name = model_name
        self._transfer_seconds = histogram(
            "transfer_seconds", "From a prompt's last page to all of it here.", STEP_BUCKETS_S
        )
        self.registry = alias(own, VLLM_NAMES)

    def step(self, output: StepOutput) -> None:
        """Count what a step made."""
        report = output.report
        self._generation_tokens.inc(sum(len(token.token_ids) for token in output.tokens))
        if report.preemptions:
            self._preemptions.inc(report.preemptions)
        if report.rows:
            self._step_tokens.observe(report.rows)
            self._step_seconds.observe(report.duration_s)

    def started(self, entry: Entry) -> None:
        """Count the prompt of a request whose first token has come."""
        self._prompt_tokens.inc(entry.num_prompt_tokens)
        self._queries.inc(entry.num_prompt_tokens)
        self._hits.inc(max(choice.cached_tokens for choice in entry.choices.values()))

    def handed_over(self, outcome: Outcome) -> None:
        """Count the end of a hand-off."""
        self._handoffs.labels(self._model_name, outcome).inc()

    def transferred(self, seconds: float) -> None:
        """Note how long a hand-off has taken."""
        self._transfer_seconds.observe(seconds)

    def gauges(self, gauges: EngineGauges) -> None:
        """Show the state between two steps."""
        self._running.set(gauges.running)
        self._waiting.set(gauges.waiting)
        held = gauges.pages_total - gauges.pages_free - gauges.pages_cached
        self._kv_usage.set(held / max(1, gauges.pages_total))
