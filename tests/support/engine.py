"""Driving an engine's core by hand: outputs by choice, runners that fail on demand."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count

from sagellm_common.errors import SageError
from sagellm_engine.backends.mock import MockRunner
from sagellm_engine.core.config import EngineConfig, MockConfig
from sagellm_engine.core.engine import EngineCore
from sagellm_engine.core.runner import Runner, StepResult
from sagellm_engine.core.sequence import SequenceState
from sagellm_engine.core.types import (
    EngineRequest,
    FinishReason,
    ModelInfo,
    RequestKey,
    SamplingParams,
    StepReport,
    TokenLogprobs,
)

_numbers = count()


@dataclass(slots=True)
class Result:
    """What one choice got."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    first_index: int | None = None
    finish: FinishReason | None = None
    error: SageError | None = None
    cached_tokens: int = 0


Results = dict[tuple[RequestKey, int], Result]


def request(prompt: Iterable[int], *, key: str | None = None, epoch: int = 1, **options: object) -> EngineRequest:
    """Make a request; sampling options and request fields may be mixed, greedy and 8 tokens by default."""
    fields = {name: options.pop(name) for name in list(options) if name in EngineRequest.__dataclass_fields__}
    sampling = SamplingParams(**{"max_tokens": 8, "temperature": 0.0, **options})  # type: ignore[arg-type]
    name = key if key is not None else f"request-{next(_numbers)}"
    return EngineRequest(
        key=(name, epoch),
        prompt_token_ids=list(prompt),
        sampling=sampling,
        **fields,  # type: ignore[arg-type]
    )


def collect(core: EngineCore, results: Results, now: float = 0.0) -> StepReport:
    """Take one step, add its outputs to `results`, and check that indexes follow one another."""
    output = core.step(now)
    for item in output.tokens:
        result = results.setdefault((item.key, item.choice), Result())
        assert result.finish is None, "an output came after the last one"
        if result.first_index is None:
            result.first_index = item.first_index
            result.cached_tokens = item.cached_tokens
        assert item.first_index == result.first_index + len(result.tokens)
        result.tokens.extend(item.token_ids)
        result.logprobs.extend(item.logprobs or ())
        result.finish, result.error = item.finish, item.error
    return output.report


def drain(core: EngineCore, now: float = 0.0, max_steps: int = 5000) -> tuple[Results, list[StepReport]]:
    """Step until nothing is left, then check the invariants."""
    results: Results = {}
    reports = []
    while core.has_work():
        reports.append(collect(core, results, now))
        assert len(reports) < max_steps, "the engine does not come to an end"
    core.check_invariants()
    return results, reports


def run(core: EngineCore, requests: Sequence[EngineRequest], now: float = 0.0) -> list[Result]:
    """Submit requests together and return the first choice's result of each."""
    for item in requests:
        assert core.submit(item, now)
    results, _ = drain(core, now)
    return [results[item.key, 0] for item in requests]


def mock_core(**options: object) -> EngineCore:
    """Make a core with the mock backend; options of MockConfig and EngineConfig may be mixed."""
    mock = {name: options.pop(name) for name in list(options) if name in MockConfig.__dataclass_fields__}
    config = EngineConfig(backend="mock", mock=MockConfig(**mock), **options)  # type: ignore[arg-type]
    return EngineCore(config, MockRunner(config))


class FaultyRunner:
    """Wraps a runner; `fault` sees the rows first and may raise, or return rows that fail alone."""

    def __init__(self, inner: Runner, fault: Callable[[Sequence[SequenceState]], dict[int, SageError] | None]) -> None:
        self.inner = inner
        self.fault = fault
        self.cleared: list[int] = []
        self.calls: list[int] = []

    @property
    def info(self) -> ModelInfo:
        """The inner runner's."""
        return self.inner.info

    @property
    def max_batch_tokens(self) -> int:
        """The inner runner's."""
        return self.inner.max_batch_tokens

    def execute(self, rows: Sequence[SequenceState]) -> StepResult:
        """Let the fault decide, then compute."""
        self.calls.append(len(rows))
        errors = self.fault(rows)
        result = self.inner.execute(rows)
        result.errors.update(errors or {})
        return result

    def clear_pages(self, pages: Iterable[int]) -> None:
        """Note the pages and clear them."""
        listed = list(pages)
        self.cleared.extend(listed)
        self.inner.clear_pages(listed)

    def close(self) -> None:
        """Close the inner runner."""
        self.inner.close()
