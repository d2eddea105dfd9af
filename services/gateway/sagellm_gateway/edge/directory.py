"""Which engines are registered, and which models they serve."""

from collections.abc import Callable
from dataclasses import dataclass

from sagellm_common.contracts.engines import EngineRegistration
from sagellm_common.errors import InvalidArgument, NotFound, Unavailable
from sagellm_gateway.generation.api import ServedModel

MAX_LISTED = 8


@dataclass(frozen=True, slots=True)
class ModelSource:
    """What a model's text side depends on: its name and the kinds of engines, each a backend and a kind.

    `model_id` is the registry's name where it differs; `folder` is where a model is that the registry does not have.
    """

    model: str
    kinds: frozenset[tuple[str, str]]
    model_id: str = ""
    folder: str = ""

    @property
    def is_mock(self) -> bool:
        """Whether only mock engines serve the model."""
        return all(backend == "mock" for backend, _ in self.kinds)


class EngineDirectory:
    """Registered engines by key; fed from the followed bucket."""

    def __init__(self, default_model: str | None, on_model: Callable[[ModelSource], None]) -> None:
        """`on_model` gets every new model, and again whenever the kinds of engines that serve it change."""
        self._default = default_model
        self._on_model = on_model
        self._engines: dict[str, EngineRegistration] = {}
        self._seen: dict[str, ModelSource] = {}

    def put(self, key: str, engine: EngineRegistration) -> None:
        """Note an engine, or what has changed about it."""
        before = self._engines.get(key)
        self._engines[key] = engine
        if before is None or _served_as(before) != _served_as(engine):
            self._tell({*engine.models, *(before.models if before else ())})

    def gone(self, key: str) -> None:
        """Forget an engine."""
        engine = self._engines.pop(key, None)
        if engine is not None:
            self._tell(set(engine.models))

    def _tell(self, models: set[str]) -> None:
        for model in sorted(models):
            source = self.source(model)
            if source.kinds and self._seen.get(model) != source:
                self._seen[model] = source
                self._on_model(source)

    @property
    def has_ready_engine(self) -> bool:
        return any(engine.state == "ready" for engine in self._engines.values())

    def source(self, model: str) -> ModelSource:
        """Return which kinds of engines serve a model now."""
        engines = [engine for engine in self._engines.values() if model in engine.models]
        real = [engine for engine in engines if engine.backend != "mock"]
        return ModelSource(
            model,
            frozenset((engine.backend, engine.kind) for engine in engines),
            min((engine.model_id for engine in real), default=""),
            min((engine.model_path for engine in real if not engine.model_id), default=""),
        )

    def models(self) -> list[ServedModel]:
        """Return the models that engines serve now, by id."""
        served: dict[str, list[EngineRegistration]] = {}
        for engine in self._engines.values():
            for model in engine.models:
                served.setdefault(model, []).append(engine)
        return [_served(model, engines) for model, engines in sorted(served.items())]

    def find(self, name: str | None) -> ServedModel:
        """Return the model of a request.

        Raises NotFound for a name that no engine has ever served, Unavailable while no engine serves it, and
        InvalidArgument if none is named and there is a choice.
        """
        models = {model.id: model for model in self.models()}
        wanted = name or self._default or self._only(models)
        if wanted in models:
            return models[wanted]
        if not self._seen:
            raise Unavailable("no engine has registered yet; try again later", retry_after_s=1.0)
        if wanted in self._seen:
            raise Unavailable(f"no engine serves {wanted!r} at the moment; try again later", retry_after_s=1.0)
        raise NotFound(f"there is no model {wanted!r}; served are {_listed(sorted(self._seen))}", param="model")

    def _only(self, models: dict[str, ServedModel]) -> str:
        if len(models) > 1:
            raise InvalidArgument(f"name a model: {_listed(sorted(models))}", param="model")
        if not models:
            raise Unavailable("no engine is registered at the moment; try again later", retry_after_s=1.0)
        return next(iter(models))


def _served_as(engine: EngineRegistration) -> tuple[tuple[str, ...], str, str, str, str]:
    return engine.models, engine.backend, engine.kind, engine.model_id, engine.model_path


def _listed(models: list[str]) -> str:
    return ", ".join(models[:MAX_LISTED]) + (", …" if len(models) > MAX_LISTED else "")


def _served(model: str, engines: list[EngineRegistration]) -> ServedModel:
    """Describe a model; a prompt must fit wherever it may run, so the smallest context counts."""
    return ServedModel(
        id=model,
        max_model_len=min(engine.max_model_len for engine in engines),
        created=int(min(engine.started_at for engine in engines)),
        engines=tuple(sorted(engine.engine_id for engine in engines)),
    )
