"""Streaming load on an OpenAI-compatible server, in a process of its own: `python -m benchmarks.load URL MODEL …`.

Prompts are token ids, so that only the server and its engine are measured. Prints one JSON object.
"""

import argparse
import asyncio
import json
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from benchmarks.shapes import prompt


@dataclass
class Stream:
    """What one stream saw: seconds to its first token, gaps between chunks, tokens by the server's own count."""

    ttft_s: float = 0.0
    gaps_s: list[float] = field(default_factory=list)
    tokens: int = 0
    chunks: int = 0


async def stream(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> Stream:
    """Run one streaming completion to its end."""
    seen = Stream()
    start = last = time.perf_counter()
    async with session.post(f"{url}/v1/completions", json=body) as reply:
        if reply.status != 200:
            raise SystemExit(f"{reply.status}: {await reply.text()}")
        async for line in reply.content:
            if not line.startswith(b"data: {"):
                continue
            now = time.perf_counter()
            if b'"usage":{' in line:
                seen.tokens = json.loads(line[6:])["usage"]["completion_tokens"]
            if b'"choices":[]' in line:
                continue
            seen.chunks += 1
            if seen.chunks == 1:
                seen.ttft_s = now - start
            else:
                seen.gaps_s.append(now - last)
            last = now
    return seen


def request_body(model: str, index: int, prompt_tokens: int, max_tokens: int) -> dict[str, Any]:
    """A greedy completion of exactly `max_tokens` tokens."""
    return {
        "model": model,
        "prompt": prompt(index, prompt_tokens),
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def run(args: argparse.Namespace) -> list[dict[str, float]]:
    """Warm up once, then `repeats` rounds of `streams` streams at once."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=600)) as session:
        await stream(session, args.url, request_body(args.model, 9999, args.prompt_tokens, 4))
        return [await _round(session, args, number) for number in range(args.repeats)]


async def _round(session: aiohttp.ClientSession, args: argparse.Namespace, number: int) -> dict[str, float]:
    bodies = [
        request_body(args.model, number * args.streams + i, args.prompt_tokens, args.max_tokens)
        for i in range(args.streams)
    ]
    start = time.perf_counter()
    streams = await asyncio.gather(*(stream(session, args.url, body) for body in bodies))
    seconds = time.perf_counter() - start
    gaps = sorted(gap for s in streams for gap in s.gaps_s) or [0.0]
    firsts = sorted(s.ttft_s for s in streams)
    tokens = sum(s.tokens for s in streams)
    return {
        "tokens_per_s": tokens / seconds,
        "tokens": tokens,
        "tokens_per_event": tokens / sum(s.chunks for s in streams),
        "missing_tokens": args.streams * args.max_tokens - tokens,
        "seconds": seconds,
        "ttft_p50_ms": statistics.median(firsts) * 1e3,
        "ttft_p99_ms": firsts[int(len(firsts) * 0.99)] * 1e3,
        "itl_p50_ms": statistics.median(gaps) * 1e3,
        "itl_p99_ms": gaps[int(len(gaps) * 0.99)] * 1e3,
        "itl_max_ms": gaps[-1] * 1e3,
    }


def main() -> None:
    """Parse the command line, run, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(run(parser.parse_args()))))


if __name__ == "__main__":
    main()
