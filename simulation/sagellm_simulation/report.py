"""What a simulation comes to: latencies, SLOs met, goodput, use and cost."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sagellm_common.contracts.slo import Slo
from sagellm_simulation.world import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Figures of one simulation; times in seconds, rates per second.

    `attainment`: share of all requests, refused ones included, that were answered within the SLO. `goodput`: requests
    a second that were. `utilisation`: share of the engines' time spent in steps. `cost`: of all engines from first to
    last. `ttft_error` and `itl_error`: medians of the relative errors of the predictions.
    """

    requests: int
    finished: int
    refused: int
    rate: float
    seconds: float
    ttft_p50: float
    ttft_p95: float
    ttft_p99: float
    itl_p50: float
    itl_p95: float
    itl_p99: float
    attainment: float
    goodput: float
    tokens_per_s: float
    utilisation: float
    cost: float
    cached: float
    ttft_error: float
    itl_error: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON, rounded."""
        return {name: round(value, 5) for name, value in asdict(self).items()}


def summarise(result: Result, slo: Slo) -> Summary:
    """Return the figures of a simulation, its requests held against `slo`."""
    done = [item for item in result.ended if item.phase == "finished"]
    met = sum(item.met(slo) for item in result.ended)
    ttft = [item.ttft_s for item in done if item.ttft_s is not None]
    itl = [item.itl_s for item in done if item.itl_s is not None]
    arrivals = max(result.trace.seconds, 1e-9)
    seconds = max(result.seconds, 1e-9)
    prompts = max(1, result.tokens_prefilled + result.tokens_cached)
    prices = sum(spec.price_per_hour for spec in result.scenario.engines)
    return Summary(
        requests=len(result.ended),
        finished=len(done),
        refused=len(result.ended) - len(done),
        rate=len(result.ended) / arrivals,
        seconds=seconds,
        ttft_p50=_quantile(ttft, 0.5),
        ttft_p95=_quantile(ttft, 0.95),
        ttft_p99=_quantile(ttft, 0.99),
        itl_p50=_quantile(itl, 0.5),
        itl_p95=_quantile(itl, 0.95),
        itl_p99=_quantile(itl, 0.99),
        attainment=met / max(1, len(result.ended)),
        goodput=met / arrivals,
        tokens_per_s=sum(item.tokens for item in done) / seconds,
        utilisation=sum(result.busy_s.values()) / (seconds * len(result.busy_s)),
        cost=prices * seconds / 3600.0,
        cached=result.tokens_cached / prompts,
        ttft_error=_median_size(record.ttft_error for record in result.records),
        itl_error=_median_size(record.itl_error for record in result.records),
    )


def _quantile(values: Sequence[float], quantile: float) -> float:
    return float(np.quantile(values, quantile)) if values else float("nan")


def _median_size(errors: Iterable[float | None]) -> float:
    known = [abs(error) for error in errors if error is not None]
    return _quantile(known, 0.5)
