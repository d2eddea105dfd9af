"""A client that closes its HTTP connection in the middle of a stream of the built-in model."""

import asyncio

import httpx

from sagellm_common.bus import Bus
from sagellm_common.contracts.reports import EngineReport
from support.stack import LocalStack
from support.wait import eventually

BODY = {"model": "sage-tiny", "prompt": "Once upon a time", "max_tokens": 1500, "stream": True, "ignore_eos": True}


async def test_the_engine_is_free_again_when_a_client_has_gone(stack: LocalStack, e2e_bus: Bus) -> None:
    """Within a second the engine computes nothing for the client any more and has all its pages back."""
    reports: list[EngineReport] = []
    await e2e_bus.subscribe(
        e2e_bus.settings.subjects.engine_metrics("*"), EngineReport, lambda report, _: reports.append(report)
    )
    await e2e_bus.flush()
    async with httpx.AsyncClient(base_url=stack.url, timeout=30) as client:
        async with client.stream("POST", "/v1/completions", json=BODY) as reply:
            chunks = reply.aiter_lines()
            for _ in range(6):
                await anext(chunks)
            await eventually(lambda: bool(reports) and reports[-1].gauges.running == 1, what="the running stream")
        gone_at = asyncio.get_running_loop().time()
    await eventually(lambda: _is_free(reports[-1]), what="the free engine")
    assert asyncio.get_running_loop().time() - gone_at < 1.0


def _is_free(report: EngineReport) -> bool:
    gauges = report.gauges
    return gauges.running + gauges.waiting == 0 and gauges.pages_free + gauges.pages_cached == gauges.pages_total
