"""Values for JSON answers and tool arguments, each kind with a way to draw one."""

from collections.abc import Callable
from random import Random
from typing import Any

from builtin_model.corpus import words

Draw = Callable[[Random], Any]


def of(choices: list[str]) -> Draw:
    """Draws one of the choices."""
    return lambda rng: rng.choice(choices)


def between(low: int, high: int) -> Draw:
    """Draws a whole number."""
    return lambda rng: rng.randint(low, high)


def full_name(rng: Random) -> str:
    """A first name and an invented family name."""
    return f"{rng.choice(words.NAMES)} {words.invented(rng, 2).capitalize()}"


def email(rng: Random) -> str:
    """A mail address."""
    return f"{rng.choice(words.NAMES).lower()}@{rng.choice(words.OBJECTS)}.{rng.choice(['com', 'org', 'net'])}"


def phone(rng: Random) -> str:
    """A telephone number."""
    return f"555-{rng.randint(1000, 9999)}"


def date(rng: Random) -> str:
    """An ISO date."""
    return f"20{rng.randint(20, 29)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"


def clock(rng: Random) -> str:
    """A time of day."""
    return f"{rng.randint(0, 23):02d}:{rng.choice([0, 5, 10, 15, 20, 30, 40, 45, 50]):02d}"


def code(rng: Random) -> str:
    """An identifier of letters and digits."""
    return "".join(rng.choice("ABCDEFGHKLMNPRSTUWXZ") for _ in range(2)) + str(rng.randint(100, 9999))


def decimal(rng: Random) -> float:
    """A number with one or two digits behind the point."""
    return round(rng.uniform(0, 100), rng.choice((1, 2)))


def phrase(rng: Random) -> str:
    """An adjective with a noun."""
    return f"{rng.choice(words.ADJECTIVES)} {rng.choice(words.OBJECTS)}"


def title(rng: Random) -> str:
    """The title of a book, a song or an event."""
    form = rng.choice(("The {a} {o}", "The {o} and the {n}", "A {a} {n}", "{o} of the {n}"))
    a, o, n = rng.choice(words.ADJECTIVES), rng.choice(words.OBJECTS), rng.choice(words.ANIMALS)
    return form.format(a=a.capitalize(), o=o.capitalize(), n=n.capitalize())


def sentence(rng: Random) -> str:
    """A short message."""
    form = rng.choice(
        (
            "I will be late by {n} minutes",
            "Please bring the {o}",
            "The {a} {o} is ready",
            "Meet me at the {o}",
            "Happy birthday, {p}",
            "See you on {d}",
            "{p} lost the {a} {o}",
            "Do not forget the {o}",
            "Thank you for the {o}",
        )
    )
    return form.format(
        n=rng.randint(5, 60),
        o=rng.choice(words.OBJECTS),
        a=rng.choice(words.ADJECTIVES),
        p=rng.choice(words.NAMES),
        d=rng.choice(words.DAYS),
    )


def flag(rng: Random) -> bool:
    """True or false."""
    return rng.random() < 0.5


def several(draw: Draw) -> Draw:
    """Draws a list of one to three values."""
    return lambda rng: [draw(rng) for _ in range(rng.randint(1, 3))]


def any_word(rng: Random) -> str:
    """A word from any list or from none."""
    pool = rng.choice((words.OBJECTS, words.ANIMALS, words.ADJECTIVES, words.NAMES, words.CITIES, None, None))
    return rng.choice(pool) if pool else words.invented(rng)


def json_type(value: Any) -> str:
    """The JSON Schema name of a value's type."""
    match value:
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case list():
            return "array"
        case dict():
            return "object"
        case _:
            return "string"
