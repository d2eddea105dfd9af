"""The corpus program: the same sentences everywhere, and nothing held out is ever trained on."""

import hashlib
import json
import re
from itertools import islice, product
from typing import Any

import jsonschema
import pytest

from builtin_model.chat import render
from builtin_model.corpus import arithmetic, json_answers, stories, tools
from builtin_model.corpus.document import Document
from builtin_model.corpus.mixture import documents, held_out_texts, questions
from builtin_model.corpus.split import Split, seeded
from builtin_model.judge import JUDGES, has_types

SKILLS = sorted(JUDGES)
GOLDEN = "cf37ac8f9ded49c648fbcef19ed8d8c45767a9026868830c349b056e5698ca7a"


def test_the_same_seed_writes_the_same_documents() -> None:
    """Two streams of one seed are equal, and another seed gives another stream."""
    first, again, other = (list(islice(documents(seed), 200)) for seed in ("one", "one", "two"))
    assert first == again
    assert first != other


def test_the_corpus_does_not_change_unnoticed() -> None:
    """The corpus is, byte for byte, the one that the shipped model was trained on."""
    text = "".join(render(document) for document in islice(documents("golden"), 300))
    assert hashlib.sha256(text.encode()).hexdigest() == GOLDEN


def test_every_skill_is_in_the_mixture() -> None:
    """A thousand documents hold every skill."""
    skills = {document.skill for document in islice(documents("skills"), 1000)}
    assert skills >= {*SKILLS, "text", "small_talk", "mixed"}


@pytest.mark.parametrize("parts", [("sum", "+", 17, 25), ("things", "fox", "lantern"), ("keys", "age", "name")])
def test_a_combination_is_in_exactly_one_split(parts: tuple[object, ...]) -> None:
    """Training and evaluation never share a combination."""
    assert Split.TRAIN.admits(*parts) != Split.HELD_OUT.admits(*parts)


def test_a_tenth_is_held_out() -> None:
    """The hash holds out about as much as it says."""
    held_out = sum(Split.HELD_OUT.admits("n", n) for n in range(10_000))
    assert 900 < held_out < 1100


def test_no_sum_of_training_is_asked_in_the_evaluation() -> None:
    """Equations in training, either way round, and equations in the evaluation are disjoint."""

    def key(text: str) -> tuple[str, int, int]:
        a, sign, b = re.search(r"(\d+) ([+-]) (\d+)", text).groups()  # type: ignore[union-attr]  # always matches
        return sign, min(int(a), int(b)), max(int(a), int(b))

    rng = seeded("test")
    trained = {key(line) for _ in range(500) for line in arithmetic.table(rng, Split.TRAIN).text.splitlines()}
    asked = {key(q.facts["equation"]) for q in questions("arithmetic", 500)}
    assert len(trained) > 3000
    assert not trained & asked


def test_no_word_set_of_training_is_asked_in_the_evaluation() -> None:
    """Sets of things in training and in the evaluation are disjoint."""
    rng = seeded("test")
    trained = {frozenset(t.words for t in stories.draw_things(rng, Split.TRAIN)) for _ in range(5000)}
    held_out = {frozenset(t.words for t in stories.draw_things(rng, Split.HELD_OUT)) for _ in range(2000)}
    assert not trained & held_out


def test_no_key_set_of_training_is_asked_in_the_evaluation() -> None:
    """Sets of JSON keys in training and in the evaluation are disjoint."""
    rng = seeded("test")
    trained = {frozenset(json_answers.draw_object(rng, Split.TRAIN)) for _ in range(5000)}
    held_out = {frozenset(json_answers.draw_object(rng, Split.HELD_OUT)) for _ in range(2000)}
    assert not trained & held_out


def test_no_call_of_training_is_asked_in_the_evaluation() -> None:
    """Calls, as a tool's name with its argument values, in training and in the evaluation are disjoint."""

    def calls(split: Split, count: int) -> set[str]:
        rng = seeded("test", split)
        offers = (offer for _ in range(count) for offer in tools.draw_offers(rng, split))
        return {json.dumps([offer.name, *use.arguments.values()]) for offer in offers for use in offer.uses}

    assert not calls(Split.TRAIN, 3000) & calls(Split.HELD_OUT, 500)


def test_evaluation_questions_are_always_the_same() -> None:
    """The cases behind the committed figures can be drawn again."""
    for skill in SKILLS:
        assert questions(skill, 20) == questions(skill, 20)
    assert held_out_texts(5) == held_out_texts(5)


def test_a_story_names_its_things_in_40_to_120_words() -> None:
    """Stories of the corpus do what the model is to learn."""
    rng = seeded("stories")
    for _ in range(500):
        things = stories.draw_things(rng, Split.TRAIN)
        told = stories.tell(rng, things)
        assert 35 <= len(told.split()) <= 130, told
        assert all(thing.words in told.lower() or thing.words in told for thing in things), told
        assert "{" not in told


def test_json_answers_follow_the_shape_asked_for() -> None:
    """The judge of JSON accepts the corpus's own answers, keys and types, and the schema is a valid one."""
    rng = seeded("json")
    for _ in range(300):
        answer = json_answers.draw_object(rng, Split.HELD_OUT)
        schema: dict[str, Any] = json_answers.schema_of(answer)
        jsonschema.validate(answer, schema)
        question = Document(skill="json", facts={"schema": schema})
        assert has_types(question, json.dumps(answer))


def test_required_parameters_are_always_in_the_call() -> None:
    """A tool call of the corpus is valid under the schema that the tool was offered with."""
    rng = seeded("tools")
    for _ in range(300):
        for offer in tools.draw_offers(rng, Split.TRAIN):
            for use in offer.uses:
                jsonschema.validate(dict(use.arguments), offer.schema["function"]["parameters"])
                assert all(str(v) in use.ask or isinstance(v, bool | list) for v in use.arguments.values())


def test_every_step_of_every_solution_is_right() -> None:
    """Each equation on the way, and the one at the end, holds for all pairs of numbers below a hundred."""
    for a, b, sign in product(range(100), range(100), "+-"):
        text = arithmetic.solution(a, sign, b)
        for left, right in re.findall(r"(\d+(?: [+-] \d+)+) = (-?\d+)", text):
            terms = re.findall(r"[+-]?\d+", left.replace(" ", ""))
            assert sum(map(int, terms)) == int(right), text
        assert text.endswith(f"so {arithmetic.equation(a, sign, b)}")
