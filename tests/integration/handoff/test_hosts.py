"""Prefill on one host and decode on another, with the CPU engine and keys and values that go over TCP."""

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

import sagellm_registry
from sagellm_common.bus import Bus, Received
from sagellm_common.contracts.events import RequestEvent
from sagellm_common.contracts.frames import TokenFrame
from sagellm_common.nats_server import NatsServer
from sagellm_common.settings import BusSettings
from sagellm_engine.core.config import EngineConfig
from sagellm_engine.core.types import SamplingParams
from sagellm_engine.inprocess import LocalEngine
from support.hosts import Host, hosts, why_not
from support.stack import LocalStack
from support.wait import eventually

MODEL = Path(sagellm_registry.__file__).parent / "builtin" / "sage-tiny"
PROMPT = [(place * 7) % 1500 + 20 for place in range(300)]
TOKENS = 24
WHY_NOT = why_not()


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalStack]:
    """Everything on this host, but an engine that prefills and one that decodes on two others."""
    with hosts(2) as (address, (one, other)):
        server = NatsServer(tmp_path / "nats", args=["-a", "0.0.0.0"])
        server.start()
        stack = LocalStack(BusSettings(nats_url=f"nats://{address}:{server.port}"), tmp_path)
        try:
            stack.start_scheduler("s1", pd_policy="threshold")
            stack.start_rest()
            _start_engine(stack, one, "prefill", monkeypatch)
            _start_engine(stack, other, "decode", monkeypatch)
            yield stack
        finally:
            stack.stop()
            server.stop()


def _start_engine(stack: LocalStack, host: Host, role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UCX_TLS", "tcp")  # no shared memory, which namespaces do not part
    monkeypatch.setenv("UCX_NET_DEVICES", host.device)
    stack.start_engine(
        role, within=host.within, engine_role=role, backend="cpu", model="sage-tiny", threads=1, max_model_len=1024
    )


@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
async def test_a_prompt_goes_from_host_to_host(stack: LocalStack) -> None:
    """The stream is that of one engine which does it all; only the decoding host has sent tokens."""
    bus = await Bus.connect(stack.settings, "test")
    tokens: dict[int, int] = {}
    senders: set[str] = set()
    ends: list[RequestEvent] = []

    def frame(frame: TokenFrame, received: Received) -> None:
        senders.add(frame.engine_id)
        for item in frame.items:
            tokens.update(enumerate(item.token_ids, item.first_index))

    subjects = bus.settings.subjects
    await bus.subscribe(f"{subjects.prefix}.tokens.*", TokenFrame, frame)
    await bus.subscribe(subjects.request_event("finished"), RequestEvent, lambda event, _: ends.append(event))
    await bus.flush()
    await stack.known(bus)
    async with openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="x", max_retries=0, timeout=60) as client:
        await client.completions.create(
            model="sage-tiny", prompt=PROMPT, max_tokens=TOKENS, temperature=0, extra_body={"ignore_eos": True}
        )
    await eventually(lambda: bool(ends), what="the end")
    await bus.close()
    with LocalEngine(EngineConfig(model_path=MODEL, backend="cpu", num_threads=1, max_model_len=1024)) as engine:
        right = engine.generate([PROMPT], SamplingParams(max_tokens=TOKENS, temperature=0.0, ignore_eos=True))[0]
    assert ends[0].transfer_ms is not None, stack.logs()
    assert (senders, ends[0].engine_id) == ({"decode"}, "decode")
    assert [tokens[place] for place in sorted(tokens)] == right
