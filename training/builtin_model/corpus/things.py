"""The things that a story can be asked for."""

from dataclasses import dataclass
from enum import Enum
from random import Random

from builtin_model.corpus.words import (
    ADJECTIVES,
    ANIMALS,
    IDEAS,
    NAMES,
    OBJECTS,
    PEOPLE,
    PLURALS,
    SCENERY,
    article,
    invented,
)


class Kind(Enum):
    """How a thing behaves in a sentence."""

    OBJECT = "object"
    ANIMATE = "animate"
    SCENERY = "scenery"
    IDEA = "idea"
    PLURAL = "plural"


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One thing: its words, without an article, and how it behaves."""

    words: str
    kind: Kind
    name: str = ""

    @property
    def asked(self) -> str:
        """As a request names it: a red hat, the sea, friendship."""
        if self.name:
            return f"{article(self.words)} {self.words} named {self.name}"
        match self.kind:
            case Kind.OBJECT | Kind.ANIMATE:
                return f"{article(self.words)} {self.words}"
            case Kind.SCENERY:
                return f"the {self.words}"
            case Kind.IDEA | Kind.PLURAL:
                return self.words

    @property
    def first(self) -> str:
        """As a story names it the first time."""
        return f"some {self.words}" if self.kind is Kind.PLURAL else self.asked

    @property
    def again(self) -> str:
        """As a story names it afterwards."""
        return self.words if self.kind is Kind.IDEA else f"the {self.words}"


def draw(rng: Random) -> Thing:
    """Any thing: mostly objects and living beings, now and then a word that no list holds."""
    kind = rng.choices(list(Kind), weights=(50, 32, 7, 6, 5))[0]
    match kind:
        case Kind.OBJECT:
            noun = invented(rng) if rng.random() < 0.12 else rng.choice(OBJECTS)
        case Kind.ANIMATE:
            noun = rng.choice(ANIMALS if rng.random() < 0.6 else PEOPLE)
        case Kind.SCENERY:
            noun = rng.choice(SCENERY)
        case Kind.IDEA:
            noun = rng.choice(IDEAS)
        case Kind.PLURAL:
            noun = rng.choice(PLURALS)
    named = rng.choice(NAMES) if kind is Kind.ANIMATE and rng.random() < 0.12 else ""
    adjective = rng.choice(ADJECTIVES) + " " if rng.random() < 0.28 and kind is not Kind.IDEA else ""
    return Thing(words=adjective + noun, kind=kind, name=named)


def draw_set(rng: Random) -> list[Thing]:
    """One to four different things, at most two of them alive."""
    wanted = rng.choices((1, 2, 3, 4), weights=(20, 40, 30, 10))[0]
    things: list[Thing] = []
    while len(things) < wanted:
        thing = draw(rng)
        alive = sum(t.kind is Kind.ANIMATE for t in things)
        fresh = all(thing.words.split()[-1] != t.words.split()[-1] for t in things)
        if fresh and not (thing.kind is Kind.ANIMATE and alive == 2):
            things.append(thing)
    return things
