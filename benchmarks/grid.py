"""Which traces, fleets, SLOs and policies are compared: written down before the runs."""

from dataclasses import dataclass

from sagellm_common.contracts.slo import Slo

REQUESTS = {"conversation": 12_000, "code": 4000, "mooncake": 4000}
"""Two minutes of traffic at least: who is late may wait half a minute, which must not be most of a run."""

OVERLOAD = 1.5

TRACES = {
    "conversation": "AzureLLMInferenceTrace_conv.csv",
    "code": "AzureLLMInferenceTrace_code.csv",
    "mooncake": "mooncake_synthetic.jsonl",
}
FLEETS = {"4 equal": "4*h200-8b", "2 + 2 of two kinds": "2*h200-8b,2*h100-8b"}
SLOS = {
    "conversation": ((500.0, 15.0), (2000.0, 30.0)),
    "code": ((500.0, 15.0), (2000.0, 30.0)),
    "mooncake": ((4000.0, 20.0), (8000.0, 40.0)),
}
"""Time to the first token and from token to token, ms: one tight, one loose."""

SPLIT = {"4*h200-8b": "2*h200-8b:prefill,2*h200-8b:decode", "2*h200-8b,2*h100-8b": "2*h200-8b:prefill,2*h100-8b:decode"}


@dataclass(frozen=True, slots=True)
class Policy:
    """What decides; `is_split`: half of the engines prefill, half decode; `is_paced`: engines are told the time from
    token to token that is promised, and cut prompts for its sake."""

    router: str
    queue: str = "fifo"
    pd: str = "off"
    is_split: bool = False
    is_paced: bool = True


OURS = "sageLLM"
ORDINARY = "no separation, no pace"
POLICIES = {
    "random": Policy("random"),
    "round robin": Policy("round_robin"),
    "least loaded": Policy("load_balanced"),
    "cache-aware": Policy("cache_aware"),
    "PD by threshold": Policy("load_balanced", pd="threshold"),
    "PD by threshold, roles": Policy("load_balanced", pd="threshold", is_split=True),
    "least loaded, no pace": Policy("load_balanced", is_paced=False),
    "roles, no pace": Policy("load_balanced", pd="threshold", is_split=True, is_paced=False),
    OURS: Policy("predictive", "slo_aware", "adaptive"),
}
WEAK = ("random", "round robin", "PD by threshold")
UNPACED = tuple(name for name, policy in POLICIES.items() if not policy.is_paced)


@dataclass(frozen=True, slots=True)
class Cell:
    """One fleet under one trace and SLO."""

    trace: str
    fleet: str
    ttft_ms: float
    itl_ms: float

    @property
    def slo(self) -> Slo:
        return Slo(ttft_ms=self.ttft_ms, itl_ms=self.itl_ms)

    @property
    def name(self) -> str:
        return f"{self.trace}, {self.fleet}, {self.ttft_ms:g}/{self.itl_ms:g} ms"


def grid() -> list[Cell]:
    """All cells."""
    return [Cell(trace, fleet, *slo) for trace in TRACES for fleet in FLEETS for slo in SLOS[trace]]
