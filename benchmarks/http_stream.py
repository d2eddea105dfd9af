"""What the gateway's HTTP part costs per streamed token: `python -m benchmarks.http_stream`.

The gateway behind it is replaced by a beat that gives every open stream one token at a time, so that only HTTP is
measured: processor time of this process with HTTP, less the same beat with readers in the process. The load comes
from a process of its own.
"""

import argparse
import asyncio
import json
import socket
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass

import uvicorn
import uvloop
from prometheus_client import CollectorRegistry

from sagellm_common.contracts.generate import GenerateRequest, Usage
from sagellm_gateway.generation.api import Delta, ServedModel
from sagellm_gateway.http.app import create_app


class BeatStream:
    """A generation that gets one token per beat, as a real one gets them from token frames."""

    model, created, prompt_tokens = "beat", 1_700_000_000, 128

    def __init__(self, request_id: str, num_tokens: int) -> None:
        self.request_id = request_id
        self.left = self._unread = num_tokens
        self._deltas: list[Delta] = []
        self._waiter: asyncio.Future[None] | None = None
        self.num_read = 0

    def put(self) -> None:
        self.left -= 1
        self._deltas.append(Delta(0, " token", [7], finish_reason=None if self.left else "length"))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def usage(self) -> Usage:
        return Usage(prompt_tokens=self.prompt_tokens, completion_tokens=self.num_read)

    def __aiter__(self) -> AsyncIterator[list[Delta]]:
        return self

    async def __anext__(self) -> list[Delta]:
        if not self._unread:
            raise StopAsyncIteration
        if not self._deltas:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        deltas, self._deltas = self._deltas, []
        self._unread -= len(deltas)
        self.num_read += len(deltas)
        return deltas

    async def cancel(self, reason: str) -> None:
        self.left = self._unread = 0


class BeatGateway:
    """Serves beat streams."""

    registry = CollectorRegistry()
    draining = False

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s
        self._open: list[BeatStream] = []
        self._count = 0

    async def submit(self, request: GenerateRequest) -> BeatStream:
        self._count += 1
        stream = BeatStream(f"request{self._count}", request.sampling.max_tokens or 1)
        self._open.append(stream)
        return stream

    def models(self) -> list[ServedModel]:
        return [ServedModel("beat", 4096, 1_700_000_000, ("e1",))]

    def ready(self) -> tuple[bool, str]:
        return True, ""

    async def beat(self) -> None:
        """Give every open stream a token each `step_s`, for ever."""
        due = time.monotonic()
        while True:
            for stream in self._open:
                stream.put()
            self._open = [stream for stream in self._open if stream.left > 0]
            due = max(due + self._step_s, time.monotonic())
            await asyncio.sleep(due - time.monotonic())


@dataclass(frozen=True)
class Figures:
    """Processor time in µs per token."""

    streams: int
    tokens_per_s: float
    itl_p99_ms: float
    with_http_us: float
    without_http_us: float

    @property
    def http_us(self) -> float:
        return self.with_http_us - self.without_http_us


async def measure(streams: int, num_tokens: int, step_s: float) -> Figures:
    """Run the same beat with readers in the process, then over HTTP."""
    gateway = BeatGateway(step_s)
    beat = asyncio.create_task(gateway.beat())
    without = await _without_http(gateway, streams, num_tokens)
    used, load = await _with_http(gateway, streams, num_tokens)
    beat.cancel()
    per_token = 1e6 / (streams * num_tokens)
    return Figures(streams, load["tokens_per_s"], load["itl_p99_ms"], used * per_token, without * per_token)


async def _without_http(gateway: BeatGateway, streams: int, num_tokens: int) -> float:
    async def read() -> None:
        request = GenerateRequest.model_validate({"prompt": [1], "sampling": {"max_tokens": num_tokens}})
        async for _ in await gateway.submit(request):
            pass

    start = time.process_time()
    await asyncio.gather(*(read() for _ in range(streams)))
    return time.process_time() - start


async def _with_http(gateway: BeatGateway, streams: int, num_tokens: int) -> tuple[float, dict[str, float]]:
    config = uvicorn.Config(create_app(gateway), log_level="warning", access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        arguments = ["--streams", str(streams), "--max-tokens", str(num_tokens), "--repeats", "1"]
        start = time.process_time()
        load = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.load", url, "beat", *arguments, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await load.communicate()
        used = time.process_time() - start
        server.should_exit = True
        await serving
    return used, json.loads(output)[-1]


def main() -> None:
    """Parse the command line, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--step-ms", type=float, default=20.0)
    args = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        figures = runner.run(measure(args.streams, args.tokens, args.step_ms / 1e3))
    print(json.dumps(asdict(figures) | {"http_us": figures.http_us}))


if __name__ == "__main__":
    main()
