"""Which files a model's text side is read from, and when they are looked for again."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sagellm_common.bus import Bus
from sagellm_common.contracts.registry import ModelCard, ModelInfo, ModelReply
from sagellm_common.errors import NotFound, SageError, Unavailable
from sagellm_common.settings import BusSettings
from sagellm_gateway.edge import models
from sagellm_gateway.edge.directory import ModelSource
from sagellm_gateway.edge.models import TextModels, builtin_model
from sagellm_gateway.text.model import TextModel

MOCK, REAL = ("mock", "mock-1"), ("cpu", "cpu/main")


class _Registry:
    """A bus on which only a registry answers: with a card, or with an error."""

    def __init__(self) -> None:
        self.settings = BusSettings()
        self.answer: tuple[str, str] | SageError = NotFound("no such model")
        self.asked = 0

    async def request(self, subject: str, query: Any, reply_type: Any, *, timeout_s: float) -> ModelReply:
        self.asked += 1
        if isinstance(self.answer, SageError):
            raise self.answer
        path, revision = self.answer
        card = ModelCard(model_id="m", revision=revision, path=path, architecture="a", max_model_len=9, vocab_size=9)
        return ModelReply(model=ModelInfo(model_id="m", path=path), card=card)


class _Made:
    """Text models that know their folder instead of reading it, and how many were read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths: list[str] = []
        monkeypatch.setattr(TextModel, "load", self._load)
        self.registry = _Registry()
        self.threads = ThreadPoolExecutor(max_workers=1)
        self.texts = TextModels(cast(Bus, self.registry), self.threads)

    def _load(self, path: Path) -> Any:
        self.paths.append(str(path))
        return SimpleNamespace(path=str(path))

    async def path(self, *kinds: tuple[str, str]) -> str:
        """The folder of the model that engines of these kinds serve."""
        found: str = cast(Any, await self.texts.get(ModelSource("m", frozenset(kinds)))).path
        return found


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = _Made(monkeypatch)
    yield made
    made.threads.shutdown()


async def test_a_mock_tokenizer_makes_way_for_the_real_one(made: _Made) -> None:
    """A model that only mock engines serve has the built-in tokenizer until an engine of another kind serves it."""
    assert await made.path(MOCK) == str(builtin_model())
    made.registry.answer = ("/models/m", "main")
    assert await made.path(MOCK, REAL) == "/models/m"


async def test_a_new_revision_is_read_and_an_unchanged_one_is_not(made: _Made) -> None:
    """Each change of the engines asks the registry once; files are read when their folder or revision is another."""
    made.registry.answer = ("/models/m", "1")
    for kinds in ((REAL,), (REAL,), (REAL, ("cuda", "cuda/1"))):
        assert await made.path(*kinds) == "/models/m"
    assert (made.registry.asked, made.paths) == (2, ["/models/m"])
    made.registry.answer = ("/models/m", "2")
    await made.path(("cpu", "cpu/2"))
    assert made.paths == ["/models/m"] * 2


async def test_without_the_registry_what_is_known_serves_on(made: _Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the registry is away, other engines of a known model are served; it is asked again later."""
    made.registry.answer = ("/models/m", "1")
    await made.path(REAL)
    made.registry.answer = Unavailable("no registry")
    assert await made.path(("cpu", "cpu/2")) == "/models/m"
    asked = made.registry.asked
    assert await made.path(("cpu", "cpu/2")) == "/models/m"
    assert made.registry.asked == asked
    made.registry.answer = ("/models/m2", "2")
    monkeypatch.setattr(models, "time", SimpleNamespace(monotonic=lambda: 1e12))
    assert await made.path(("cpu", "cpu/2")) == "/models/m2"


async def test_a_failed_load_is_tried_again(made: _Made) -> None:
    """A real engine's model without a card is not found, and found once it is there."""
    with pytest.raises(NotFound):
        await made.path(REAL)
    made.registry.answer = ("/models/m", "1")
    assert await made.path(REAL) == "/models/m"
