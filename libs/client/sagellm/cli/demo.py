"""The first request of a new stack: proof that everything works, and how fast."""

import time

from rich.console import Console

from sagellm.cli.hints import QUESTION
from sagellm.client.http_async import AsyncHttpClient


async def run_demo(client: AsyncHttpClient, model: str, console: Console) -> None:
    """Ask for a story and print it as it comes."""
    console.print(f"\n[bold]You:[/bold] {QUESTION}")
    console.print(f"[bold]{model}:[/bold] ", end="")
    began = time.monotonic()
    first_s: float | None = None
    stream = await client.stream(messages=[{"role": "user", "content": QUESTION}], model=model, max_tokens=160)
    async with stream:
        async for chunk in stream:
            if chunk.text and first_s is None:
                first_s = time.monotonic() - began
            console.print(chunk.text, end="", style="green", markup=False)
    console.print()
    usage = stream.so_far.usage
    total_s = time.monotonic() - began
    if usage is not None and first_s is not None:
        rate = usage.completion_tokens / total_s
        console.print(
            f"{usage.completion_tokens} tokens, first after {first_s * 1000:.0f} ms, {rate:.0f} tokens/s", style="dim"
        )
