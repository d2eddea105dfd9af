"""The whole corpus: an endless, seeded stream that mixes the skills."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random

from builtin_model.corpus import arithmetic, copying, json_answers, small_talk, stories, tools
from builtin_model.corpus.document import Document, Message
from builtin_model.corpus.split import Split, seeded

Writer = Callable[[Random, Split], Document]


def mixed_chat(rng: Random, split: Split) -> Document:
    """A longer conversation that changes its subject."""
    messages: list[Message] = []
    for _ in range(rng.randint(2, 12)):
        part = rng.choices((stories.write, arithmetic.chat, json_answers.write, small_talk.write), (3, 2, 3, 1))[0]
        chat = part(rng, split)
        messages.extend(m for m in chat.messages if m["role"] != "system")
    return Document(skill="mixed", messages=tuple(messages))


# The weights are shares of documents; a tools document is about ten times as long as a sum.
WRITERS: tuple[tuple[Writer, float], ...] = (
    (stories.write, 55),
    (stories.plain, 3),
    (arithmetic.write, 5),
    (json_answers.write, 30),
    (tools.write, 14),
    (small_talk.write, 3),
    (copying.write, 8),
    (mixed_chat, 1.5),
)
QUESTIONS: dict[str, Writer] = {
    "stories": stories.question,
    "arithmetic": arithmetic.question,
    "json": json_answers.question,
    "tools": tools.question,
}


def documents(seed: str) -> Iterator[Document]:
    """Training documents without end; the same seed gives the same documents on every machine."""
    rng = seeded("corpus", seed)
    writers, weights = zip(*WRITERS, strict=True)
    while True:
        yield rng.choices(writers, weights)[0](rng, Split.TRAIN)


def questions(skill: str, count: int) -> list[Document]:
    """Evaluation cases of a skill, all of them held out of training."""
    rng = seeded("questions", skill)
    return [replace(QUESTIONS[skill](rng, Split.HELD_OUT), skill=skill) for _ in range(count)]


def held_out_texts(count: int) -> list[str]:
    """Plain stories about held-out things, for bits per byte."""
    rng = seeded("held-out texts")
    return [stories.plain(rng, Split.HELD_OUT).text for _ in range(count)]
