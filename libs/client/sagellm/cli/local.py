"""A model inside this process: the engine's core and the gateway's text, without services."""

import secrets
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from sagellm.launcher.threads import engine_threads, usable_cores
from sagellm_common.errors import InvalidArgument, PayloadTooLarge
from sagellm_engine.core.config import EngineConfig
from sagellm_engine.core.types import SamplingParams, TokenOutput
from sagellm_engine.inprocess import LocalEngine
from sagellm_engine.settings import BUILTIN_MODEL
from sagellm_gateway.text.model import TextModel
from sagellm_registry.store import ModelStore


class LocalModel:
    """One loaded model; use it in a `with` block."""

    def __init__(self, name: str, text: TextModel, engine: LocalEngine) -> None:
        self.name = name
        self._text, self._engine = text, engine

    @classmethod
    def load(cls, model: str | None, backend: str | None) -> "LocalModel":
        """Load a model by id or folder, None for the built-in one; raises NotFound and what loading raises."""
        name = model or BUILTIN_MODEL
        folder = Path(name).expanduser()
        path = folder if folder.is_dir() else ModelStore().get_model_path(name)
        if backend == "mock":
            raise InvalidArgument("the mock backend has no weights; try it with `sagellm up --backend mock`")
        config = EngineConfig(
            model_path=path, backend=backend or "auto", num_threads=engine_threads(usable_cores(), 1), max_num_seqs=1
        )
        return cls(name, TextModel.load(path), LocalEngine(config))

    def stream(
        self, messages: list[dict[str, str]], *, max_tokens: int, temperature: float, seed: int | None
    ) -> Iterator[str]:
        """Yield the answer to a chat, or to its last message as a plain prompt if the model has no chat template."""
        prompt = self._prompt(messages)
        room = self._engine.core.info.max_model_len - len(prompt)
        if room < 1:
            raise PayloadTooLarge("the conversation is longer than the model's context; begin anew with /reset")
        sampling = SamplingParams(
            max_tokens=min(max_tokens, room),
            temperature=temperature,
            seed=secrets.randbits(63) if seed is None else seed,
        )
        detokenizer = self._text.detokenizer()
        # Its type says iterator, its documentation that it can be closed, which cancels.
        with closing(cast("Generator[TokenOutput]", self._engine.stream(prompt, sampling))) as outputs:
            for output in outputs:
                yield detokenizer.push(output.token_ids)
        yield detokenizer.flush()

    def _prompt(self, messages: list[dict[str, str]]) -> list[int]:
        if self._text.has_chat_template:
            return self._text.encode(self._text.render([dict(m) for m in messages], None), add_special=False)
        return self._text.encode(messages[-1]["content"], add_special=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._engine.close()
