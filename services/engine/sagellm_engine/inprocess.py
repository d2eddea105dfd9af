"""The engine without services: load a folder, generate, in the caller's thread."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from types import TracebackType
from typing import Self

from sagellm_engine.core.config import EngineConfig
from sagellm_engine.core.engine import EngineCore
from sagellm_engine.core.types import EngineRequest, RequestKey, SamplingParams, TokenOutput
from sagellm_engine.factory import create_engine


class LocalEngine:
    """A core of one's own. Synchronous; one call at a time, a stream being one until it ends or is closed."""

    def __init__(self, config: EngineConfig, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Load the model; raises what `create_engine` raises."""
        self.core: EngineCore = create_engine(config)
        self._clock = clock
        self._numbers = count()

    def __enter__(self) -> Self:
        """Return itself; leaving closes it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the core."""
        self.close()

    def close(self) -> None:
        """Give back the memory."""
        self.core.close()

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: SamplingParams | Sequence[SamplingParams]
    ) -> list[list[int]]:
        """Return the generated tokens of each prompt, ending tokens included.

        Raises the error of the first request that fails.
        """
        each = [sampling] * len(prompts) if isinstance(sampling, SamplingParams) else list(sampling)
        now = self._clock()
        results: dict[RequestKey, list[int]] = {(f"local-{next(self._numbers)}", 1): [] for _ in prompts}
        try:
            for key, prompt, params in zip(results, prompts, each, strict=True):
                self.core.submit(EngineRequest(key=key, prompt_token_ids=list(prompt), sampling=params), now)
            while self.core.has_work():
                for output in self.core.step(self._clock()).tokens:
                    if output.error is not None:
                        raise output.error
                    results[output.key].extend(output.token_ids)
        except BaseException:
            self._abandon(results)
            raise
        return list(results.values())

    def stream(self, prompt: Sequence[int], sampling: SamplingParams) -> Iterator[TokenOutput]:
        """Yield the outputs of one request as they are made; closing the iterator cancels it.

        Raises the request's error if it fails.
        """
        key = (f"local-{next(self._numbers)}", 1)
        request = EngineRequest(key=key, prompt_token_ids=list(prompt), sampling=sampling)
        self.core.submit(request, self._clock())
        try:
            while self.core.has_work():
                for output in self.core.step(self._clock()).tokens:
                    if output.error is not None:
                        raise output.error
                    yield output
        finally:
            self._abandon([key])

    def _abandon(self, keys: Iterable[RequestKey]) -> None:
        """Cancel what is still open, and take the last outputs, so that the next caller does not get them."""
        open_keys = [key for key in keys if self.core.cancel(key, self._clock())]
        if open_keys:
            self.core.step(self._clock())
