"""An engine alone: what is promised to answers bounds the prompts beside them."""

from collections.abc import Awaitable, Callable

from support.engine_peer import EnginePeer
from support.processes import ServiceProcess
from support.wait import eventually

StartEngine = Callable[..., Awaitable[tuple[ServiceProcess, EnginePeer]]]


async def test_a_dispatch_that_names_a_pace_has_prompts_cut_beside_it(shared_engine: StartEngine) -> None:
    """Steps of 5 ms and 0.05 a prompt token: beside an answer of 20 ms a token, a prompt of 4,000 takes many steps, of
    about 240 tokens each; the engine's reports tell the limit."""
    _, peer = await shared_engine(mock_step_ms=5, mock_prefill_ms_per_token=0.05)
    answer = peer.make(max_tokens=400, itl_ms=20.0)
    await peer.dispatch(answer)
    await eventually(lambda: len(peer.tokens[answer.request_id, 0, 0]) > 3)
    peer.reports.clear()
    await peer.run(prompt_token_ids=[7] * 4000, max_tokens=1)
    await peer.cancel(answer.request_id)
    await peer.idle()
    steps = [step for report in peer.reports for step in report.steps]
    chunks = [step.prefill_tokens for step in steps if step.prefill_tokens and step.decode_seqs]
    assert sum(chunks) == 4000
    assert max(chunks) < 300
    assert 0.020 in {report.gauges.itl_limit_s for report in peer.reports}
