"""Write the Grafana dashboards of compose/ from the table below: `python -m tools.make_dashboards`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "compose" / "grafana" / "dashboards"
RATE = "[$__rate_interval]"
DATASOURCE = {"type": "prometheus", "uid": "prometheus"}
WIDTH, HEIGHT, COLUMNS = 12, 8, 2


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph: a title, a unit of Grafana, and queries by legend."""

    title: str
    unit: str
    queries: dict[str, str]


def quantiles(histogram: str, *, by: str = "", at: tuple[float, ...] = (0.5, 0.9, 0.99)) -> dict[str, str]:
    """Return the queries for quantiles of a histogram, one line per value of the label `by` if it is given."""
    labels, legend = (f"le, {by}", f" {{{{{by}}}}}") if by else ("le", "")
    rate = f"sum by ({labels}) (rate({histogram}_bucket{RATE}))"
    return {f"p{round(q * 100)}{legend}": f"histogram_quantile({q}, {rate})" for q in at}


def rate(counter: str, *, by: str) -> dict[str, str]:
    """Return the query for a counter's rate per second by one label; 0 where nothing has been counted yet."""
    return {f"{{{{{by}}}}}": f"sum by ({by}) (rate({counter}_total{RATE})) or vector(0)"}


def total_rate(counter: str, legend: str) -> dict[str, str]:
    """Return the query for a counter's rate per second over all its labels."""
    return {legend: f"sum(rate({counter}_total{RATE})) or vector(0)"}


def share(part: str, whole: str, *, by: str) -> dict[str, str]:
    """Return the query for the ratio of two counters by one label; 0 while the whole stands still."""
    rates = [f"sum by ({by}) (rate({counter}_total{RATE}))" for counter in (part, whole)]
    return {f"{{{{{by}}}}}": f"{rates[0]} / ({rates[1]} > 0) or vector(0)"}


def met(objective: str) -> dict[str, str]:
    """Return the query for the share of requests that met one objective; 1 while none has stated it."""
    requests = f'sagellm_slo_requests_total{{objective="{objective}"'
    good, every = f'{requests}, met="true"}}{RATE}', f"{requests}}}{RATE}"
    return {objective: f"(sum(rate({good})) or vector(0)) / (sum(rate({every})) > 0) or vector(1)"}


def planner(*gauges: str) -> dict[str, str]:
    """Return the queries for gauges of the planner over all models; 0 before its first plan."""
    return {gauge.replace("_", " "): f"sum(sagellm_planner_{gauge}) or vector(0)" for gauge in gauges}


DASHBOARDS: dict[str, tuple[str, list[Panel]]] = {
    "latency": (
        "Latency",
        [
            Panel("Time to first token", "s", quantiles("sagellm_time_to_first_token_seconds")),
            Panel("Time between tokens", "s", quantiles("sagellm_inter_token_latency_seconds")),
            Panel("Request, acceptance to end", "s", quantiles("sagellm_e2e_request_latency_seconds")),
            Panel("Acceptance to assignment", "s", quantiles("sagellm_request_queue_time_seconds")),
            Panel("Engine step", "s", quantiles("sagellm_engine_step_seconds", by="instance", at=(0.5, 0.99))),
            Panel("Scheduler: computing time of a decision", "s", quantiles("sagellm_scheduler_decision_time_seconds")),
        ],
    ),
    "throughput": (
        "Throughput",
        [
            Panel(
                "Tokens a second",
                "short",
                total_rate("sagellm_generation_tokens", "generated") | total_rate("sagellm_prompt_tokens", "prompt"),
            ),
            Panel(
                "Generated tokens a second by engine", "short", rate("sagellm_engine_generation_tokens", by="instance")
            ),
            Panel(
                "Choices finished a second, by reason", "reqps", rate("sagellm_request_success", by="finished_reason")
            ),
            Panel("Requests failed a second, by code", "reqps", rate("sagellm_request_failures", by="code")),
            Panel("Tokens in a step", "short", quantiles("sagellm_engine_step_tokens", by="instance", at=(0.5, 0.99))),
            Panel("Decisions a second, by router", "reqps", rate("sagellm_scheduler_decisions", by="router")),
        ],
    ),
    "queue": (
        "Queue",
        [
            Panel("Requests that wait in the scheduler", "short", {"waiting": "sum(sagellm_scheduler_queue_length)"}),
            Panel("Time in the scheduler's queue", "s", quantiles("sagellm_scheduler_queue_time_seconds")),
            Panel(
                "Open requests",
                "short",
                {
                    "gateways": "sum(sagellm_gateway_open_requests)",
                    "leader": "sum(sagellm_scheduler_open_requests)",
                },
            ),
            Panel("Rejected a second, by code", "reqps", rate("sagellm_scheduler_rejected", by="code")),
            Panel("Running by engine", "short", {"{{instance}}": "sagellm_engine_requests_running"}),
            Panel("Waiting by engine", "short", {"{{instance}}": "sagellm_engine_requests_waiting"}),
        ],
    ),
    "kv": (
        "KV usage",
        [
            Panel("KV pages in use", "percentunit", {"{{instance}}": "sagellm_engine_kv_usage_ratio"}),
            Panel("Preemptions a second", "short", rate("sagellm_engine_preemptions", by="instance")),
            Panel(
                "Share of prompt tokens found in the prefix cache",
                "percentunit",
                share("sagellm_engine_prefix_cache_hits", "sagellm_engine_prefix_cache_queries", by="instance"),
            ),
            Panel("Prompt tokens a second by engine", "short", rate("sagellm_engine_prompt_tokens", by="instance")),
        ],
    ),
    "slo": (
        "SLO",
        [
            Panel(
                "Share of requests that met their objective", "percentunit", met("ttft") | met("itl") | met("deadline")
            ),
            Panel(
                "Missed a second, by objective",
                "reqps",
                {
                    "{{objective}}": (
                        f'sum by (objective) (rate(sagellm_slo_requests_total{{met="false"}}{RATE})) or vector(0)'
                    )
                },
            ),
            Panel("Engines by state", "short", {"{{state}}": "max by (state) (sagellm_scheduler_engines)"}),
            Panel("Schedulers that lead (1 is right)", "short", {"leaders": "sum(sagellm_scheduler_is_leader)"}),
            Panel(
                "Engines that the planner wants, and that are ready",
                "short",
                planner("engines_wanted", "engines_ready"),
            ),
            Panel(
                "Requests a second, as the planner sees and expects them",
                "reqps",
                planner("requests_per_second", "expected_requests_per_second"),
            ),
        ],
    ),
    "services": (
        "Services",
        [
            Panel("Services that answer", "short", {"{{job}}": "sum by (job) (up)"}),
            Panel("Repairs between bus and clients a second", "short", rate("sagellm_gateway_repairs", by="kind")),
            Panel("Messages lost to full subscriptions", "short", {"lost": "sum(sagellm_bus_dropped_messages)"}),
            Panel("Registry: requests a second, by verb", "reqps", rate("sagellm_registry_requests", by="verb")),
            Panel(
                "Registry: models, and downloads that run",
                "short",
                {"models": "max(sagellm_registry_models)", "downloads": "sum(sagellm_registry_downloads_running)"},
            ),
        ],
    ),
}


def dashboard(name: str) -> dict[str, Any]:
    """Return one dashboard in Grafana's JSON model."""
    title, panels = DASHBOARDS[name]
    return {
        "uid": f"sagellm-{name}",
        "title": f"sageLLM: {title}",
        "tags": ["sagellm"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-15m", "to": "now"},
        "timezone": "browser",
        "templating": {"list": []},
        "annotations": {"list": []},
        "links": [{"type": "dashboards", "tags": ["sagellm"], "title": "sageLLM", "asDropdown": True}],
        "panels": [_panel(number, panel) for number, panel in enumerate(panels)],
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(number, COLUMNS)
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": DATASOURCE,
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": DATASOURCE, "expr": query, "legendFormat": legend}
            for index, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def text(name: str) -> str:
    """Return the file of one dashboard."""
    return json.dumps(dashboard(name), indent=2) + "\n"


def main() -> None:
    """Write all dashboards."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in DASHBOARDS:
        (FOLDER / f"{name}.json").write_text(text(name))


if __name__ == "__main__":
    main()
