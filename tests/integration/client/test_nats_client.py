"""The NATS clients on a real nats-server, with a gateway played by the test."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from nats.aio.msg import Msg

from sagellm.client.nats_async import AsyncNatsClient
from sagellm.client.sync import NatsClient
from sagellm_common.bus import Bus, Received
from sagellm_common.bus.messages import encode_error
from sagellm_common.codec import MSGPACK, decode, encode
from sagellm_common.contracts.engines import ENGINES_TTL_S, EngineRegistration
from sagellm_common.contracts.generate import CancelRequest, GenerateReply, GenerateRequest, Usage
from sagellm_common.errors import (
    DeadlineExceeded,
    InvalidArgument,
    PayloadTooLarge,
    ResourceExhausted,
    SageError,
    Unavailable,
)
from sagellm_common.nats_server import free_port
from sagellm_common.settings import BusSettings


class PlayedGateway:
    """Answers each request with the replies in `script`; remembers requests, their headers and cancellations."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.script: list[GenerateReply | SageError] = []
        self.requests: list[GenerateRequest] = []
        self.headers: list[dict[str, str]] = []
        self.inboxes: list[str] = []
        self.cancelled: asyncio.Queue[str] = asyncio.Queue()

    async def start(self) -> None:
        await self.bus.client.subscribe(self.bus.settings.subjects.generate, cb=self._receive)
        await self.bus.subscribe(self.bus.settings.subjects.cancel("*"), CancelRequest, self._cancel)
        await self.bus.flush()

    def _cancel(self, request: CancelRequest, received: Received) -> None:
        self.cancelled.put_nowait(request.request_id)

    async def _receive(self, msg: Msg) -> None:
        self.requests.append(decode(GenerateRequest, msg.data))
        self.headers.append(dict(msg.headers or {}))
        self.inboxes.append(msg.reply)
        for reply in self.script:
            is_error = isinstance(reply, SageError)
            data, headers = encode_error(reply, MSGPACK) if is_error else (encode(reply), {})
            await self.bus.client.publish(msg.reply, data, headers=headers)


def reply(seq: int, text: str = "", **fields: object) -> GenerateReply:
    return GenerateReply.model_validate({"request_id": "r1", "seq": seq, "model": "m", "text": text, **fields})


USAGE = Usage(prompt_tokens=3, completion_tokens=2)
WHOLE = [reply(0), reply(1, "Hel"), reply(2, "lo", finish_reason="stop"), reply(3, final=True, usage=USAGE)]


@pytest.fixture
async def gateway(bus: Bus) -> PlayedGateway:
    played = PlayedGateway(bus)
    await played.start()
    played.script = list(WHOLE)
    return played


@pytest.fixture
async def client(bus_settings: BusSettings) -> AsyncIterator[AsyncNatsClient]:
    async with AsyncNatsClient(settings=bus_settings, silence_s=5.0) as connected:
        yield connected


async def test_generate_returns_the_whole(gateway: PlayedGateway, client: AsyncNatsClient) -> None:
    """Text, end and usage of all replies; the request carries what was asked."""
    completion = await client.generate("x", max_tokens=2, temperature=0.0)
    assert (completion.text, completion.choices[0].finish_reason, completion.usage) == ("Hello", "stop", USAGE)
    assert gateway.requests[0].prompt == "x"
    assert gateway.requests[0].sampling.max_tokens == 2


async def test_chat_returns_a_message(gateway: PlayedGateway, client: AsyncNatsClient) -> None:
    """A chat's answer has OpenAI's message beside the text."""
    completion = await client.chat([{"role": "user", "content": "hi"}])
    assert completion.text == "Hello"
    assert completion.choices[0].message is not None
    assert completion.choices[0].message.content == "Hello"


async def test_a_lost_reply_is_an_error_and_cancels(gateway: PlayedGateway, client: AsyncNatsClient) -> None:
    """A gap in the replies never gives wrong text: it raises, and the request is cancelled."""
    gateway.script = [WHOLE[0], WHOLE[1], reply(3, "o")]
    with pytest.raises(Unavailable, match="replies 2 to 2"):
        await client.generate("x")
    assert await asyncio.wait_for(gateway.cancelled.get(), 30) == "r1"


async def test_leaving_a_stream_cancels(gateway: PlayedGateway, client: AsyncNatsClient) -> None:
    """A stream that is left early publishes its cancellation and leaves its inbox."""
    gateway.script = WHOLE[:2]
    async with await client.stream("x") as stream:
        assert (await anext(stream)).text == "Hel"
        assert stream.request_id == "r1"
    assert await asyncio.wait_for(gateway.cancelled.get(), 30) == "r1"
    with pytest.raises(Exception, match="no responders"):
        await gateway.bus.client.request(gateway.inboxes[0], b"", timeout=2)


async def test_an_ended_stream_does_not_cancel(gateway: PlayedGateway, client: AsyncNatsClient) -> None:
    """Nothing is cancelled after the final reply."""
    await client.generate("x")
    await client.cancel("marker")
    assert await asyncio.wait_for(gateway.cancelled.get(), 30) == "marker"


async def test_a_cancelled_task_cancels_the_request(gateway: PlayedGateway, client: AsyncNatsClient) -> None:
    """A caller that is cancelled while it waits takes its request with it."""
    gateway.script = WHOLE[:2]
    stream = await client.stream("x")
    await anext(stream)
    waiting = asyncio.create_task(stream.completion())
    await asyncio.sleep(0)
    waiting.cancel()
    assert await asyncio.wait_for(gateway.cancelled.get(), 30) == "r1"
    await asyncio.gather(waiting, return_exceptions=True)


@pytest.mark.parametrize("alone", [True, False])
async def test_errors_come_typed(gateway: PlayedGateway, client: AsyncNatsClient, alone: bool) -> None:
    """An error in a reply, or alone as the bus replies it, is raised with its fields."""
    error = ResourceExhausted("the queue is full", retry_after_s=2.0)
    gateway.script = [error if alone else reply(0, final=True, error=error.to_dict())]
    with pytest.raises(ResourceExhausted) as caught:
        await client.generate("x")
    assert caught.value.retry_after_s == 2.0


async def test_no_gateway_is_said_at_once(client: AsyncNatsClient) -> None:
    """Without a gateway the server says so; the error says what to do."""
    with pytest.raises(Unavailable, match="start one with `sagellm up`"):
        await client.generate("x")


async def test_silence_and_slowness_end(gateway: PlayedGateway, bus_settings: BusSettings) -> None:
    """A silent gateway and an answer that takes too long both raise DeadlineExceeded."""
    gateway.script = WHOLE[:2]
    async with AsyncNatsClient(settings=bus_settings, silence_s=0.1) as client:
        with pytest.raises(DeadlineExceeded, match="no reply for"):
            await client.generate("x")
    async with AsyncNatsClient(settings=bus_settings) as client:
        with pytest.raises(DeadlineExceeded, match="raise timeout_s"):
            await client.generate("x", timeout_s=0.1)


async def test_too_large_a_request_is_refused_here(gateway: PlayedGateway, client: AsyncNatsClient) -> None:
    """What the bus would not carry is refused before it is sent; the connection stays."""
    with pytest.raises(PayloadTooLarge):
        await client.generate("x" * (9 * 1024 * 1024))
    assert (await client.generate("x")).text == "Hello"


async def test_the_clients_span_begins_the_trace(
    gateway: PlayedGateway, client: AsyncNatsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request carries the context of a `sagellm.client` span, which ends with the usage."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", lambda name: provider.get_tracer(name))
    await client.generate("x", model="m")
    (span,) = exporter.get_finished_spans()
    assert span.name == "sagellm.client"
    assert span.attributes is not None
    assert span.attributes["gen_ai.usage.output_tokens"] == 2
    assert format(span.get_span_context().trace_id, "032x") in gateway.headers[0]["traceparent"]


async def test_models_are_those_of_registered_engines(bus: Bus, client: AsyncNatsClient) -> None:
    """Each model once, whatever number of engines serve it."""
    bucket = await bus.bucket(bus.settings.subjects.bucket("engines"), ttl_s=ENGINES_TTL_S)
    for number in (1, 2):
        entry = {"engine_id": f"e{number}", "incarnation": "i", "models": ["b", "a"], "backend": "mock", "kind": "k"}
        sizes = {"max_model_len": 1, "page_size": 1, "num_pages": 1, "max_num_seqs": 1, "max_batch_tokens": 1}
        await bucket.put(f"e{number}", EngineRegistration.model_validate({**entry, **sizes}))
    assert [model.id for model in await client.models()] == ["a", "b"]


async def test_the_synchronous_client(gateway: PlayedGateway, bus_settings: BusSettings) -> None:
    """The same from a thread without an event loop: whole answers, streams, errors, an early end."""

    def use() -> None:
        with NatsClient(bus_settings.nats_url, deployment=bus_settings.deployment) as client:
            assert client.generate("x").text == "Hello"
            with client.stream("x") as stream:
                assert "".join(chunk.text for chunk in stream) == "Hello"
            with pytest.raises(InvalidArgument):
                client.generate("x", temperature=-1.0)
            gateway.script = WHOLE[:2]
            with client.stream("x") as stream:
                next(iter(stream))
        client.close()

    await asyncio.to_thread(use)
    assert await asyncio.wait_for(gateway.cancelled.get(), 30) == "r1"


async def test_an_absent_bus_is_an_error() -> None:
    """No server at the URL: Unavailable that names it, not the password in it."""
    url = f"nats://me:secret@127.0.0.1:{free_port()}"
    client = AsyncNatsClient(settings=BusSettings(nats_url=url, connect_timeout_s=0.5))
    with pytest.raises(Unavailable, match="no NATS server answers") as caught:
        await client.generate("x")
    assert "secret" not in caught.value.message
    await client.aclose()
