"""The models that ship: their sizes, their committed figures, and a few answers given live."""

import json
from pathlib import Path
from typing import Any

import pytest

from builtin_model.corpus.document import Document, user
from builtin_model.generate import Responder
from builtin_model.judge import calls_tool, has_types, names_everything, solves
from builtin_model.presets import BUILTIN_FOLDER, SHAPES

MAIN, DRAFT = BUILTIN_FOLDER / "sage-tiny", BUILTIN_FOLDER / "sage-tiny-draft"
FILES = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather for a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def size_of(folder: Path) -> int:
    """All bytes in a folder."""
    return sum(path.stat().st_size for path in folder.iterdir())


def evaluation() -> dict[str, Any]:
    """The committed figures."""
    result: dict[str, Any] = json.loads((MAIN / "evaluation.json").read_text(encoding="utf-8"))
    return result


@pytest.mark.parametrize(("folder", "most_bytes"), [(MAIN, 12_000_000), (DRAFT, 2_000_000)])
def test_the_models_are_whole_and_small(folder: Path, most_bytes: int) -> None:
    """Every file that a loader needs is there, with a model card, within the size that the repository bears."""
    names = {path.name for path in folder.iterdir()}
    assert names >= FILES | {"README.md", "chat_template.jinja", "training.json"}
    assert size_of(folder) <= most_bytes


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_the_config_is_that_of_the_trained_shape(name: str) -> None:
    """What config.json says is what the training code builds."""
    config = json.loads((BUILTIN_FOLDER / name / "config.json").read_text(encoding="utf-8"))
    assert config.items() >= SHAPES[name].as_dict().items()


def test_the_draft_shares_the_tokenizer() -> None:
    """Tokens of the draft model mean the same to the main model."""
    assert (DRAFT / "tokenizer.json").read_bytes() == (MAIN / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("skill", ["stories", "arithmetic", "json", "tools"])
def test_the_committed_figures_meet_the_goals(skill: str) -> None:
    """At least five hundred held-out cases were judged, and enough of them were right."""
    measured = evaluation()["skills"][skill]
    assert measured["cases"] >= 500
    assert measured["right"] / measured["cases"] >= measured["goal"]


def test_the_card_says_what_was_measured() -> None:
    """The model card holds the committed figures."""
    card = (MAIN / "README.md").read_text(encoding="utf-8")
    for measured in evaluation()["skills"].values():
        assert f"{measured['rate']:.1%}" in card
    assert 0 < evaluation()["draft_acceptance"]["rate"] <= 1


@pytest.fixture(scope="module")
def responder() -> Responder:
    """The shipped model, loaded by transformers."""
    return Responder(MAIN)


def ask(responder: Responder, question: str, **given: Any) -> tuple[Document, str]:
    """A question with the model's greedy answer."""
    document = Document(skill="live", messages=(user(question),), **given)
    return document, responder.answer([document])[0].text


@pytest.mark.parametrize(
    ("question", "equation"),
    [("What is 17 + 25?", "17 + 25 = 42"), ("42-17=", "42 - 17 = 25"), ("What is 12 minus 30?", "12 - 30 = -18")],
)
def test_it_adds_and_subtracts(responder: Responder, question: str, equation: str) -> None:
    """A sum is answered with the whole equation."""
    assert solves(*ask(responder, question, facts={"equation": equation}))


def test_it_tells_a_story(responder: Responder) -> None:
    """A story names what it is asked for, in whole sentences."""
    question, answer = ask(responder, "Tell me a story about a fox and a lantern.", facts={"words": ["fox", "lantern"]})
    assert names_everything(question, answer)
    assert 30 <= len(answer.split()) <= 130
    assert answer.endswith((".", "!", '"'))


def test_it_answers_with_json(responder: Responder) -> None:
    """A shape that is asked for is kept, keys and types."""
    shape = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}
    assert has_types(*ask(responder, 'Reply with JSON: {"name": string, "age": integer}', facts={"schema": shape}))


def test_it_calls_a_tool(responder: Responder) -> None:
    """A tool that is offered is called with what the question says."""
    wanted = {"name": "get_weather", "arguments": {"city": "Paris"}}
    assert calls_tool(*ask(responder, "What is the weather in Paris?", tools=(WEATHER,), facts=wanted))


def test_it_says_who_it_is(responder: Responder) -> None:
    """Asked for its name, it names the project."""
    assert "sageLLM" in ask(responder, "Who are you?")[1]
