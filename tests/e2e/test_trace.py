"""A traced program asks over NATS: its span and those of the services are one trace."""

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sagellm_common.settings import BusSettings
from support.otlp import OtlpReceiver, ReceivedSpan, orphans, receiving
from support.processes import bus_env
from support.stack import LocalStack
from support.wait import eventually

SERVICE_SPANS = {"gateway.request", "scheduler.queue", "engine.queue", "engine.prefill", "engine.decode"}
PROGRAM = """
import asyncio, sys
from opentelemetry import trace
from sagellm import AsyncNatsClient
from sagellm_common.telemetry import configure_traces

async def main() -> None:
    with trace.get_tracer("program").start_as_current_span("program.work"):
        async with AsyncNatsClient() as client:
            answer = await client.generate([11, 12, 13], model="mock-model", max_tokens=8)
    print(answer.id)

traces = configure_traces("program", "p1", sys.argv[1])
asyncio.run(main())
traces.close()
"""


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with receiving() as running:
        yield running


@pytest.fixture
def traced_stack(bus_settings: BusSettings, receiver: OtlpReceiver, tmp_path: Path) -> Iterator[LocalStack]:
    """A gateway, a scheduler and a mock engine that send their spans to the receiver."""
    stack = LocalStack(bus_settings, tmp_path)
    stack.start_rest(otlp_endpoint=receiver.endpoint)
    stack.start_scheduler("s1", otlp_endpoint=receiver.endpoint)
    stack.start_engine("e1", otlp_endpoint=receiver.endpoint)
    yield stack
    stack.stop()


async def _run_program(settings: BusSettings, endpoint: str) -> str:
    """Run PROGRAM and return the id of its request."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("SAGELLM_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, endpoint, env={**inherited, **bus_env(settings)}, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    return printed.decode().strip()


async def test_a_traced_client_is_the_root_of_the_whole_trace(
    traced_stack: LocalStack, receiver: OtlpReceiver, bus_settings: BusSettings
) -> None:
    """Under the caller's span hang the client's, the gateway's, the scheduler's and the engine's; none lacks a parent.

    The client's span covers all that the services did, and knows the request by the id that the gateway gave it.
    """
    await traced_stack.ready()
    request_id = await _run_program(bus_settings, receiver.endpoint)
    wanted = SERVICE_SPANS | {"program.work", "sagellm.client"}

    def spans() -> list[ReceivedSpan]:
        traces = receiver.traces().values()
        return next((found for found in traces if any(s.name == "program.work" for s in found)), [])

    await eventually(lambda: {s.name for s in spans()} >= wanted, 20, "the spans of one request")
    by_name = {span.name: span for span in spans()}
    assert orphans(spans()) == []
    assert [span.name for span in spans() if not span.parent_id] == ["program.work"]
    assert by_name["sagellm.client"].parent_id == by_name["program.work"].span_id
    assert by_name["gateway.request"].parent_id == by_name["sagellm.client"].span_id
    assert by_name["sagellm.client"].attributes["gen_ai.response.id"] == request_id
    client = by_name["sagellm.client"]
    assert all(client.start_ns <= by_name[name].start_ns <= client.end_ns for name in SERVICE_SPANS)
