"""Short stories that name every thing they are asked for."""

from dataclasses import dataclass
from random import Random

from builtin_model.corpus import plots
from builtin_model.corpus.document import Document, assistant, user
from builtin_model.corpus.small_talk import instruction
from builtin_model.corpus.split import Split
from builtin_model.corpus.things import Kind, Thing, draw_set
from builtin_model.corpus.words import NAMES, listed

MEET = {
    Kind.OBJECT: plots.MEET_OBJECT,
    Kind.ANIMATE: plots.MEET_BEING,
    Kind.SCENERY: plots.MEET_SCENERY,
    Kind.IDEA: plots.MEET_IDEA,
    Kind.PLURAL: plots.MEET_PLURAL,
}
SOLVE = {Kind.OBJECT: plots.SOLVE_OBJECT, Kind.ANIMATE: plots.SOLVE_BEING}
REQUESTS = (
    "Tell me a story about {things}.",
    "Tell me a short story about {things}.",
    "Write a story about {things}.",
    "Write a short story with {things}.",
    "Write a short story about {things}.",
    "Can you tell me a story with {things}?",
    "Please write a story about {things}",
    "I would like a story about {things}.",
    "tell me a story about {things}",
    "A story about {things}, please.",
    "Make up a story with {things}.",
    "Tell a story in which {things} appear.",
    "Write me a tale about {things}.",
    "Could you write a little story about {things}?",
    "story about {things}",
    "Once more, a story: {things}.",
)
WORD_REQUESTS = (
    "Write a story with these words: {words}.",
    "Use the words {listed} in a short story.",
    "Write a short story that uses the words {listed}.",
    "Tell me a story. It must contain: {words}",
    "Story with: {words}",
)
FREE_REQUESTS = (
    "Tell me a story.",
    "Tell me a story",
    "Write a short story.",
    "Can you tell me a story?",
    "I want to hear a story.",
    "Tell me something nice.",
    "Another story, please.",
    "Once upon a time",
)


@dataclass(frozen=True)
class Hero:
    """Who the story is about: how it is named and which pronouns it takes."""

    called: str
    he: str
    him: str
    his: str


def hero_of(rng: Random, thing: Thing | None) -> Hero:
    """The first living thing asked for, or a child with a name."""
    called = (thing.name or thing.again) if thing else rng.choice(NAMES)
    noun = thing.words.split()[-1] if thing else ""
    if called in plots.GIRLS or (not called[0].isupper() and noun in plots.FEMALE):
        return Hero(called, "she", "her", "her")
    if called[0].isupper() or noun in plots.MALE or (thing and rng.random() < 0.5):
        return Hero(called, "he", "him", "his")
    return Hero(called, "she", "her", "her")


def capital(text: str) -> str:
    """The text with a capital first letter, also behind an opening quotation mark."""
    return text[0].upper() + text[1:]


class Teller:
    """Fills sentences for one story, never using the same sentence twice."""

    def __init__(self, rng: Random, hero: Hero) -> None:
        self.rng = rng
        self.hero = hero
        self.friend = rng.choice([name for name in NAMES if name != hero.called])
        self.used: set[str] = set()

    def say(self, forms: tuple[str, ...], thing: Thing | None = None, second: Thing | None = None) -> str:
        """One sentence of the forms, about the thing if there is one."""
        form = self.rng.choice([f for f in forms if f not in self.used] or list(forms))
        self.used.add(form)
        spot = self.rng.choice(plots.SPOTS)
        hero = self.hero
        first, again = (thing.first, thing.again) if thing else ("", "")
        return capital(
            form.format(
                hero=hero.called,
                hero_up=capital(hero.called),
                he=hero.he,
                He=capital(hero.he),
                him=hero.him,
                his=hero.his,
                friend=self.friend,
                place=self.rng.choice(plots.PLACES),
                spot=spot,
                spot_up=capital(spot),
                a=first,
                A=capital(first or " "),
                the=again,
                The=capital(again or " "),
                the2=second.again if second else "",
            )
        )


def tell(rng: Random, things: list[Thing]) -> str:
    """A story of 40 to 120 words that names every thing."""
    star = next((t for t in things if t.kind is Kind.ANIMATE), None)
    teller = Teller(rng, hero_of(rng, star))
    lines = [teller.say(plots.OPENING_BEING, star) if star else teller.say(plots.OPENING_NAMED)]
    others = [t for t in things if t is not star]
    lines.extend(teller.say(plots.WISH) for _ in range(rng.choice((0, 1, 1)) if len(others) > 1 else 2))
    for thing in others:
        lines.extend(_introduce(teller, thing, brief=len(others) > 2))
    if len(others) > 1 and rng.random() < 0.3:
        lines.append(teller.say(plots.JOIN, others[0], others[1]))
    lines.append(teller.say(plots.TROUBLE))
    lines.append(_solve(teller, others))
    lines.extend(teller.say(plots.CLOSING) for _ in range(1 if len(lines) > 6 else 2))
    return " ".join(lines)


def _introduce(teller: Teller, thing: Thing, *, brief: bool) -> list[str]:
    lines = [teller.say(MEET[thing.kind], thing)]
    if thing.kind is Kind.OBJECT and teller.rng.random() < (0.3 if brief else 0.7):
        lines.append(teller.say(plots.DETAIL_OBJECT, thing))
    if thing.kind is Kind.ANIMATE and teller.rng.random() < (0.3 if brief else 0.7):
        lines.append(teller.say(plots.DETAIL_BEING, thing))
    return lines


def _solve(teller: Teller, others: list[Thing]) -> str:
    if not others:
        return teller.say(plots.SOLVE_ALONE)
    thing = teller.rng.choice(others)
    return teller.say(SOLVE.get(thing.kind, plots.SOLVE_OTHER), thing)


def request(rng: Random, things: list[Thing]) -> str:
    """A way of asking for the things."""
    if rng.random() < 0.15 and not any(t.name for t in things):
        words = [t.words for t in things]
        return rng.choice(WORD_REQUESTS).format(words=", ".join(words), listed=listed(words))
    return rng.choice(REQUESTS).format(things=listed([t.asked for t in things]))


def draw_things(rng: Random, split: Split) -> list[Thing]:
    """A set of things of the split."""
    while True:
        things = draw_set(rng)
        if split.admits("things", *sorted(t.words for t in things)):
            return things


def write(rng: Random, split: Split) -> Document:
    """A training document: a question with its story."""
    if rng.random() < 0.05:
        asked, things = rng.choice(FREE_REQUESTS), draw_things(rng, split)[:2]
    else:
        things = draw_things(rng, split)
        asked = request(rng, things)
    messages = (*instruction(rng), user(asked), assistant(tell(rng, things)))
    return Document(skill="stories", messages=messages)


def question(rng: Random, split: Split) -> Document:
    """An evaluation case; the facts are the words that the story must name."""
    things = draw_things(rng, split)
    words = [word for t in things for word in ((t.words, t.name) if t.name else (t.words,))]
    return Document(skill="stories", messages=(user(request(rng, things)),), facts={"words": words})


def plain(rng: Random, split: Split) -> Document:
    """A story without a question, for plain continuation."""
    return Document(skill="text", text=tell(rng, draw_things(rng, split)) + "\n")
