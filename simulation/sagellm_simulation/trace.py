"""Request traces: what arrives when, how long it is, and which prefixes prompts share."""

import csv
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from sagellm_common.contracts.slo import NO_SLO, Priority, Slo
from sagellm_common.errors import InvalidArgument

MOONCAKE_BLOCK = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRequest:
    """One request; `at` in seconds from the start of the trace. `blocks` are ids of the prompt's blocks, of which
    equal beginnings are equal prompts."""

    request_id: str
    at: float
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()
    slo: Slo = NO_SLO
    priority: Priority = Priority.NORMAL
    user: str | None = None
    cost_budget: float | None = None


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in the order of their arrival; `block` tokens make one of their blocks."""

    name: str
    requests: list[TraceRequest]
    block: int = MOONCAKE_BLOCK

    @property
    def seconds(self) -> float:
        """From the first arrival to the last."""
        return self.requests[-1].at - self.requests[0].at if self.requests else 0.0

    @property
    def rate(self) -> float:
        """Requests a second."""
        return len(self.requests) / max(self.seconds, 1e-9)

    def first(self, count: int) -> "Trace":
        """The first so many requests."""
        return replace(self, requests=self.requests[:count])

    def at_rate(self, per_s: float) -> "Trace":
        """The same requests, their times stretched or squeezed so that so many come a second."""
        factor = self.rate / per_s
        start = self.requests[0].at if self.requests else 0.0
        return replace(self, requests=[replace(r, at=(r.at - start) * factor) for r in self.requests])

    def with_slo(self, slo: Slo) -> "Trace":
        """The same requests, each stating this."""
        return replace(self, requests=[replace(r, slo=slo) for r in self.requests])


def conversations(count: int, seed: int = 0, per_s: float = 10.0) -> Trace:
    """Make up chats: lengths log-normal about 800 tokens in and 200 out, arrivals by chance, `per_s` a second."""
    chance = random.Random(seed)
    at, requests = 0.0, []
    for number in range(count):
        at += chance.expovariate(per_s)
        prompt, output = chance.lognormvariate(6.7, 0.9), chance.lognormvariate(5.2, 0.7)
        requests.append(
            TraceRequest(
                request_id=f"r{number}", at=at, prompt_tokens=1 + int(prompt), output_tokens=1 + min(4096, int(output))
            )
        )
    return Trace("made-up chats", requests)


def load(path: Path) -> Trace:
    """Read a trace: Azure's CSV (TIMESTAMP, ContextTokens, GeneratedTokens), BurstGPT's (Timestamp, Request tokens,
    Response tokens), or Mooncake's JSON lines (timestamp in ms, input_length, output_length, hash_ids).

    Raises InvalidArgument for a file that is none of these, naming the line at fault.
    """
    if not path.is_file():
        raise InvalidArgument(f"there is no trace {path}", param="trace")
    rows = _mooncake(path) if path.suffix == ".jsonl" else _csv(path)
    requests = sorted(rows, key=lambda r: r.at)
    if not requests:
        raise InvalidArgument(f"{path} has no requests", param="trace")
    start = requests[0].at
    return Trace(path.stem, [replace(r, at=r.at - start) for r in requests])


def _mooncake(path: Path) -> Iterator[TraceRequest]:
    with path.open() as file:
        for number, line in enumerate(file):
            try:
                row = json.loads(line)
                yield TraceRequest(
                    request_id=f"r{number}",
                    at=float(row["timestamp"]) / 1e3,
                    prompt_tokens=max(1, int(row["input_length"])),
                    output_tokens=max(1, int(row["output_length"])),
                    blocks=tuple(row.get("hash_ids", ())),
                )
            except (ValueError, KeyError, TypeError) as error:
                raise _at_fault(path, number + 1, error) from error


def _csv(path: Path) -> Iterator[TraceRequest]:
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        names = {name.strip().lower(): name for name in reader.fieldnames or ()}
        columns = _columns(path, names)
        for number, row in enumerate(reader):
            try:
                at, prompt, output = (row[column] for column in columns)
                if int(float(output)) == 0:  # BurstGPT keeps failed requests
                    continue
                yield TraceRequest(
                    request_id=f"r{number}",
                    at=_seconds(at),
                    prompt_tokens=max(1, int(float(prompt))),
                    output_tokens=int(float(output)),
                )
            except (ValueError, TypeError) as error:
                raise _at_fault(path, number + 2, error) from error


def _columns(path: Path, names: dict[str, str]) -> tuple[str, str, str]:
    for wanted in (
        ("timestamp", "contexttokens", "generatedtokens"),
        ("timestamp", "request tokens", "response tokens"),
    ):
        if all(name in names for name in wanted):
            at, prompt, output = (names[name] for name in wanted)
            return at, prompt, output
    raise InvalidArgument(f"{path}: the columns {', '.join(names.values())} are of no known trace", param="trace")


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        whole, _, fraction = text.strip().partition(".")
        return datetime.fromisoformat(whole + "+00:00").timestamp() + float(f"0.{fraction or 0}")


def _at_fault(path: Path, line: int, error: Exception) -> InvalidArgument:
    return InvalidArgument(f"{path}, line {line}: {error}", param="trace")
