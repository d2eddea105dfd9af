"""The stack that compose.yaml describes, as processes: requests, traces, metrics and dashboards."""

import json
import math
import time
from pathlib import Path

import httpx
import pytest

from sagellm_common.bus import Bus
from sagellm_common.contracts.registry import ListQuery, ListReply
from sagellm_registry.shipped import builtin_path
from support.compose_stack import ComposeStack, ask, running_stack
from support.otlp import ReceivedSpan, orphans
from support.prometheus import Prometheus
from support.wait import eventually
from tools.make_dashboards import DASHBOARDS

pytestmark = [
    pytest.mark.skipif(builtin_path("sage-tiny") is None, reason="the built-in model has not been exported"),
    pytest.mark.xdist_group("compose"),
]
SERVICES = {"sagellm-gateway", "sagellm-scheduler", "sagellm-engine", "sagellm-registry"}
SPANS = {"gateway.request", "scheduler.queue", "engine.queue", "engine.prefill", "engine.decode", "registry.touch"}
WINDOW = "30s"


def test_a_request_over_http_is_answered(stack: ComposeStack) -> None:
    """With commands and environments of the file, a chat request gets its answer."""
    assert ask(stack).strip()


async def test_a_request_over_nats_is_answered(stack: ComposeStack) -> None:
    """A client with nothing but its NATS user and JSON gets a numbered stream that ends."""
    bus = await Bus.connect(stack.settings("client"), "test")
    try:
        body = json.dumps(
            {"messages": [{"role": "user", "content": "What is 12 + 30?"}], "sampling": {"max_tokens": 8}}
        )
        replies: list[dict[str, object]] = []
        subscription = await bus.client.subscribe(bus.new_inbox())
        await bus.client.publish(
            bus.settings.subjects.generate,
            body.encode(),
            reply=subscription.subject,
            headers={"Content-Type": "application/json"},
        )
        while not replies or not replies[-1]["final"]:
            message = await subscription.next_msg(timeout=30)
            if message.data:
                replies.append(json.loads(message.data))
        assert [reply["seq"] for reply in replies] == list(range(len(replies)))
        assert replies[-1].get("error") is None, replies[-1]
        assert "".join(str(reply.get("text", "")) for reply in replies).strip()
    finally:
        await bus.close()


async def test_the_hybrid_profile_answers_and_stops_in_order(tmp_path: Path) -> None:
    """With one hybrid engine, here of the mock backend, the same file gives a stack that answers and ends."""
    with running_stack(tmp_path, "hybrid", {"SAGELLM_BACKEND": "mock"}) as stack:
        assert {name for name in stack.processes if name.startswith("engine")} == {"engine-hybrid"}
        assert ask(stack)
        for process in reversed(stack.processes.values()):
            process.terminate()
            assert await process.wait() == 0, process.log_text()


async def test_the_registry_answers_a_client(stack: ComposeStack) -> None:
    """The client's user may list the models, and the built-in one is among them."""
    bus = await Bus.connect(stack.settings("client"), "test")
    try:
        listed = await bus.request(bus.settings.subjects.registry("list"), ListQuery(), ListReply)
        assert "sage-tiny" in [model.model_id for model in listed.models]
    finally:
        await bus.close()


async def test_one_request_is_one_connected_trace(stack: ComposeStack) -> None:
    """The spans of a request over all four services form one tree: one root, no parent that is missing."""
    ask(stack)

    def whole() -> list[ReceivedSpan]:
        traces = stack.traces.traces().values()
        return next((spans for spans in traces if {span.name for span in spans} >= SPANS and _root(spans)), [])

    await eventually(lambda: bool(whole()) and not orphans(whole()), 20, "a trace of all services")
    spans = whole()
    assert len([span for span in spans if not span.parent_id]) == 1
    root = _root(spans)
    assert root is not None
    assert root.service == "sagellm-gateway"
    assert {span.service for span in spans} == SERVICES
    assert root.attributes["gen_ai.request.model"] == "sage-tiny"
    assert all(span.end_ns >= span.start_ns >= root.start_ns for span in spans)


def _root(spans: list[ReceivedSpan]) -> ReceivedSpan | None:
    return next((span for span in spans if not span.parent_id), None)


async def test_no_trace_has_a_missing_parent(stack: ComposeStack) -> None:
    """Of all that the services have sent, every span's parent has come too."""
    ask(stack)

    def is_whole() -> bool:
        traces = stack.traces.traces()
        return bool(traces) and not any(orphans(spans) for spans in traces.values())

    await eventually(is_whole, 20, "every span's parent")


def test_prometheus_scrapes_every_process(stack: ComposeStack, prometheus: Prometheus) -> None:
    """Every target of the configuration answers."""
    targets = _after_requests(stack, prometheus)
    assert len(targets) == len(stack.processes)
    assert set(targets.values()) == {"up"}


@pytest.mark.parametrize("name", sorted(DASHBOARDS))
def test_every_panel_has_data(stack: ComposeStack, prometheus: Prometheus, name: str) -> None:
    """Each query of each dashboard is valid and returns numbers for a stack that has served requests."""
    _after_requests(stack, prometheus)
    for panel in DASHBOARDS[name][1]:
        for query in panel.queries.values():
            result = prometheus.query(query.replace("$__rate_interval", WINDOW))
            assert result, f"{panel.title}: no data for {query}"
            numbers = [float(series["value"][1]) for series in result]
            assert any(not math.isnan(number) for number in numbers), f"{panel.title}: {query}"


def test_latency_panels_show_what_was_served(stack: ComposeStack, prometheus: Prometheus) -> None:
    """The quantiles of TTFT are positive and ordered."""
    _after_requests(stack, prometheus)
    ttft = DASHBOARDS["latency"][1][0].queries
    values = [
        float(prometheus.query(query.replace("$__rate_interval", WINDOW))[0]["value"][1]) for query in ttft.values()
    ]
    assert 0 < values[0] <= values[1] <= values[2]


def test_vllms_names_are_there_too(stack: ComposeStack) -> None:
    """Dashboards made for vLLM find their metrics at the gateway and at the engines."""
    ask(stack)
    text = _metrics(stack, "gateway")
    assert "vllm:time_to_first_token_seconds_bucket" in text
    assert "vllm:num_requests_running" in _metrics(stack, "engine-decode")


def test_nobody_needed_a_right_that_it_lacks(stack: ComposeStack) -> None:
    """After requests and discovery, the nats-server has refused nothing to any service."""
    ask(stack)
    refused = [line for line in stack.nats_log().splitlines() if "violation" in line.lower()]
    assert refused == []


def _metrics(stack: ComposeStack, service: str) -> str:
    url = f"http://127.0.0.1:{stack.ports[service]}/metrics"
    return httpx.get(url, timeout=10, trust_env=False).text


_served: list[dict[str, str]] = []


def _after_requests(stack: ComposeStack, prometheus: Prometheus) -> dict[str, str]:
    """Serve requests until two scrapes around them are in, once; return the health of the targets."""
    if not _served:
        _until_counted(stack, prometheus)
        _served.append(prometheus.targets())
    return _served[0]


def _until_counted(stack: ComposeStack, prometheus: Prometheus) -> None:
    """Rates need a counter before and after: ask until Prometheus itself has seen every service's counters grow."""
    counters = (
        "sagellm_generation_tokens_total",
        "sagellm_scheduler_queue_time_seconds_count",
        "sagellm_engine_step_seconds_count",
    )
    missing = {f"sum(increase({counter}[{WINDOW}])) > 0" for counter in counters}
    missing |= {f"count(count_over_time(up[{WINDOW}]) > 2) == {len(stack.processes)}"}
    deadline = time.monotonic() + 45
    while missing:
        assert time.monotonic() < deadline, f"{missing} never held; {prometheus.targets()}\n{stack.logs()}"
        ask(stack, max_tokens=4)
        missing = {query for query in missing if not prometheus.query(query)}
