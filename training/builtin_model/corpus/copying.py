"""Exact repetition in many forms, from which a small model learns to copy what it has never seen."""

import json
from random import Random

from builtin_model.corpus import values, words
from builtin_model.corpus.document import Document, Message, assistant, user
from builtin_model.corpus.split import Split
from builtin_model.corpus.values import Draw, between, of

PIECES: tuple[Draw, ...] = (
    of(words.OBJECTS),
    of(words.ANIMALS),
    of(words.ADJECTIVES),
    of(words.NAMES),
    of(words.CITIES),
    of(words.VERBS),
    words.invented,
    words.invented,
    between(0, 999),
    values.code,
)
REPEAT = (
    "Repeat: {}",
    "Say {}",
    "Repeat after me: {}",
    "Write exactly this: {}",
    "Copy this: {}",
    "Say this again: {}",
)
AS_LIST = ("Write these words as a JSON list: {}", "JSON list of {}", "Put these into a JSON array: {}")
JOINED = ("Join with underscores: {}", "Write as one name: {}")


def pieces(rng: Random, fewest: int, most: int) -> list[str]:
    """A few words of one or of many kinds."""
    draws = (rng.choice(PIECES),) if rng.random() < 0.3 else PIECES
    return [str(rng.choice(draws)(rng)) for _ in range(rng.randint(fewest, most))]


def exchange(rng: Random) -> tuple[Message, Message]:
    """A question whose answer repeats a part of it."""
    match rng.randrange(4):
        case 0:
            said = " ".join(pieces(rng, 1, 12))
            return user(rng.choice(REPEAT).format(said)), assistant(said)
        case 1:
            said = values.sentence(rng)
            return user(rng.choice(REPEAT).format(said)), assistant(said)
        case 2:
            items = pieces(rng, 1, 10)
            return user(rng.choice(AS_LIST).format(", ".join(items))), assistant(json.dumps(items))
        case _:
            items = pieces(rng, 2, 4)
            return user(rng.choice(JOINED).format(" ".join(items))), assistant("_".join(items))


def page(rng: Random) -> Document:
    """A plain page on which one line stands again and again."""
    line = rng.choice((" ", " ", ", ", "_", "\n")).join(pieces(rng, 3, 16))
    times = rng.randint(2, 4)
    return Document(skill="copying", text=f"{line}\n" * times, facts={"times": times})


def write(rng: Random, split: Split) -> Document:
    """A training document; repetition has nothing to hold out."""
    if rng.random() < 0.5:
        return page(rng)
    messages: list[Message] = []
    for _ in range(rng.randint(1, 4)):
        messages.extend(exchange(rng))
    return Document(skill="copying", messages=tuple(messages))
