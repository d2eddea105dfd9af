"""Which models can be asked for."""

import pytest

from sagellm_common.codec import encode
from sagellm_common.contracts.engines import EngineRegistration
from sagellm_common.contracts.scheduling import OpenRequest, Submit
from sagellm_common.errors import InvalidArgument, NotFound, Unavailable
from sagellm_gateway.edge.directory import EngineDirectory
from sagellm_gateway.edge.open_requests import parts


def engine(name: str, *models: str, context: int = 100, backend: str = "cpu") -> EngineRegistration:
    """A registration."""
    return EngineRegistration(
        engine_id=name,
        incarnation="1",
        models=models,
        backend=backend,
        kind="k",
        max_model_len=context,
        page_size=16,
        num_pages=10,
        max_num_seqs=4,
        max_batch_tokens=64,
        started_at=5.0,
    )


def make(default: str | None = None, *engines: EngineRegistration) -> EngineDirectory:
    """A directory of engines."""
    directory = EngineDirectory(default, lambda source: None)
    for registration in engines:
        directory.put(registration.engine_id, registration)
    return directory


def test_a_prompt_must_fit_wherever_it_may_run() -> None:
    """The smallest context of a model's engines counts; all its engines are named."""
    directory = make(None, engine("a", "m", context=50), engine("b", "m", "n", context=80))
    model = directory.find("m")
    assert (model.max_model_len, model.engines, model.created) == (50, ("a", "b"), 5)
    assert [served.id for served in directory.models()] == ["m", "n"]


def test_an_unnamed_model_is_the_default_or_the_only_one() -> None:
    """With several models and no default, one must be named."""
    assert make(None, engine("a", "m")).find(None).id == "m"
    assert make("n", engine("a", "m", "n")).find(None).id == "n"
    with pytest.raises(InvalidArgument, match="m, n"):
        make(None, engine("a", "m", "n")).find(None)


def test_unknown_and_absent_models_are_told_apart() -> None:
    """Never served is not found; served by engines that are gone is unavailable, as is a gateway without engines."""
    directory = make(None, engine("a", "m"))
    with pytest.raises(NotFound, match="served are m"):
        directory.find("x")
    directory.gone("a")
    with pytest.raises(Unavailable):
        directory.find("m")
    with pytest.raises(Unavailable):
        make().find("m")


def test_a_model_is_told_anew_when_other_kinds_of_engines_serve_it() -> None:
    """Renewed registrations load nothing again; a real engine beside a mock one, and the mock one's end, do."""
    seen: list[tuple[str, bool, int]] = []
    directory = EngineDirectory(None, lambda source: seen.append((source.model, source.is_mock, len(source.kinds))))
    for _ in range(2):
        directory.put("a", engine("a", "m", backend="mock"))
    assert seen == [("m", True, 1)]
    directory.put("b", engine("b", "m"))
    directory.put("c", engine("c", "m"))
    assert seen[1:] == [("m", False, 2)]
    directory.gone("a")
    directory.gone("b")
    directory.gone("c")
    assert seen[2:] == [("m", False, 1)]


def test_open_requests_are_split_by_size() -> None:
    """Each part fits, their requests add up in order, the last one alone is marked; none at all is one part."""
    requests = [
        OpenRequest(submit=Submit(request_id=str(i), gateway_id="g", model="m", prompt_tokens=1, max_tokens=1))
        for i in range(50)
    ]
    split = list(parts("g", requests, 2000))
    assert len(split) > 3
    assert [request.submit.request_id for part in split for request in part.requests] == [str(i) for i in range(50)]
    assert [part.last for part in split] == [False] * (len(split) - 1) + [True]
    assert [part.part for part in split] == list(range(len(split)))
    assert max(len(encode(part)) for part in split) < 2500
    (empty,) = parts("g", [], 2000)
    assert empty.last
