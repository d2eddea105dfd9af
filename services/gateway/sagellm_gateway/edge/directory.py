"""Which engines are registered, and which models they serve."""

from collections.abc import Callable

from sagellm_common.contracts.engines import EngineRegistration
from sagellm_common.errors import InvalidArgument, NotFound, Unavailable
from sagellm_gateway.generation.api import ServedModel

MAX_LISTED = 8


class EngineDirectory:
    """Registered engines by key; fed from the followed bucket."""

    def __init__(self, default_model: str | None, on_model: Callable[[str, bool], None]) -> None:
        """`on_model` gets every new model, and whether mock engines serve it."""
        self._default = default_model
        self._on_model = on_model
        self._engines: dict[str, EngineRegistration] = {}
        self._seen: set[str] = set()

    def put(self, key: str, engine: EngineRegistration) -> None:
        """Note an engine, or what has changed about it."""
        self._engines[key] = engine
        for model in engine.models:
            if model not in self._seen:
                self._seen.add(model)
                self._on_model(model, engine.backend == "mock")

    def gone(self, key: str) -> None:
        """Forget an engine."""
        self._engines.pop(key, None)

    @property
    def has_ready_engine(self) -> bool:
        return any(engine.state == "ready" for engine in self._engines.values())

    def is_mock(self, model: str) -> bool:
        """Whether only mock engines serve a model."""
        return all(engine.backend == "mock" for engine in self._engines.values() if model in engine.models)

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
