"""Conversations in which the right tool is called with the right arguments."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random
from string import Formatter
from typing import Any

from builtin_model.corpus import small_talk, values, words
from builtin_model.corpus.document import Document, Message, Tool, assistant, user
from builtin_model.corpus.split import Split
from builtin_model.corpus.tool_catalogue import FAMILIES, Family
from builtin_model.corpus.values import Draw, between, of

INVENTED_PARAMETERS: dict[str, Draw] = {
    "name": of(words.NAMES),
    "city": of(words.CITIES),
    "color": of(words.COLOURS),
    "colour": of(words.COLOURS),
    "size": of(["small", "medium", "large"]),
    "speed": between(1, 300),
    "count": between(1, 100),
    "level": between(1, 10),
    "amount": between(1, 1000),
    "number": between(0, 999),
    "duration": between(1, 240),
    "price": values.decimal,
    "weight": values.decimal,
    "date": values.date,
    "time": values.clock,
    "day": of(words.DAYS),
    "code": values.code,
    "id": values.code,
    "label": values.phrase,
    "owner": values.full_name,
    "target": values.any_word,
    "key": values.any_word,
    "value": values.any_word,
    "mode": of(["fast", "slow", "safe", "auto"]),
    "title": values.title,
    "note": values.sentence,
    "urgent": values.flag,
    "silent": values.flag,
    "email": values.email,
    "language": of(words.LANGUAGES),
    "animal": of(words.ANIMALS),
    "food": of(words.FOODS),
}
POLITE = ("{}", "{}", "{}", "Please {}", "please {}", "Can you {}", "I want you to {}", "Could you {}", "Now {}")
JOINERS = (" with {}", ", {}", " using {}", " and set {}")
AFTER = (
    "Done. The answer is {}.",
    "Here is the result: {}.",
    "The tool says: {}.",
    "All right: {}.",
)


@dataclass(frozen=True)
class Use:
    """One way to ask for a tool, with the arguments that it must be called with."""

    ask: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A tool as it is offered, with some uses of it; tools of one topic could be taken for each other."""

    name: str
    schema: Tool
    uses: tuple[Use, ...]
    topic: str


def schema(name: str, purpose: str, properties: dict[str, Any], required: list[str]) -> Tool:
    """A tool in the form of OpenAI's API."""
    parameters = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": {"name": name, "description": purpose, "parameters": parameters}}


def number_of_uses(rng: Random) -> int:
    """How often a tool is asked for in one conversation."""
    return rng.choices((1, 2, 3), weights=(50, 30, 20))[0]


def from_family(rng: Random, family: Family) -> Offer:
    """An offer of one of the tools that people really have."""
    uses = tuple(_use_of_family(rng, family) for _ in range(number_of_uses(rng)))
    choices = dict(family.choices)
    properties: dict[str, Any] = {}
    for parameter, meaning, draw in family.parameters:
        properties[parameter] = {"type": values.json_type(draw(rng))}
        if rng.random() < 0.8:
            properties[parameter]["description"] = meaning
        if parameter in choices:
            properties[parameter]["enum"] = list(choices[parameter])
    required = [p for p in properties if all("{" + p + "}" in request for request in family.requests)]
    name = rng.choice(family.names)
    return Offer(
        name=name,
        schema=schema(name, family.purpose, properties, required),
        uses=uses,
        topic=family.topic or family.purpose,
    )


def _use_of_family(rng: Random, family: Family) -> Use:
    drawn = {name: draw(rng) for name, _, draw in family.parameters}
    if len(set(map(str, drawn.values()))) < len(drawn):
        return _use_of_family(rng, family)
    form = rng.choice(family.requests)
    named = {field for _, field, _, _ in Formatter().parse(form) if field}
    return Use(form.format(**drawn), {n: v for n, v in drawn.items() if n in named})


def invented(rng: Random) -> Offer:
    """An offer of a tool made of any verb, any noun and any parameters."""
    verb = rng.choice(words.VERBS)
    noun = words.invented(rng) if rng.random() < 0.2 else rng.choice([*words.OBJECTS, *words.ANIMALS])
    names = rng.sample(list(INVENTED_PARAMETERS), rng.choices((1, 2, 3), weights=(40, 40, 20))[0])
    if rng.random() < 0.15:
        names.append(words.invented(rng))
    properties = {n: {"type": values.json_type(INVENTED_PARAMETERS.get(n, values.any_word)(rng))} for n in names}
    if rng.random() < 0.4:
        for name, described in properties.items():
            described["description"] = f"The {name} of the {noun}"
    optional = names[-1] if len(names) > 1 and rng.random() < 0.3 else ""
    required = [n for n in names if n != optional]
    return Offer(
        name=f"{verb}_{noun}",
        schema=schema(f"{verb}_{noun}", f"{verb.capitalize()} the {noun}", properties, required),
        uses=tuple(_use_of_invented(rng, verb, noun, names, optional) for _ in range(number_of_uses(rng))),
        topic=f"{verb} {noun}",
    )


def _use_of_invented(rng: Random, verb: str, noun: str, names: list[str], optional: str) -> Use:
    drawn = {n: INVENTED_PARAMETERS.get(n, values.any_word)(rng) for n in names}
    said = [n for n in names if n != optional or rng.random() < 0.5]
    rng.shuffle(said)
    style = rng.choice(("{} {}", "{} {}", "the {} {}", "{} = {}", "{}: {}"))
    given = words.listed([style.format(n, _spoken(drawn[n])) for n in said])
    ask = rng.choice(POLITE).format(f"{verb} the {noun}") + rng.choice(JOINERS).format(given) + rng.choice((".", ""))
    ask = ask[0].upper() + ask[1:] if rng.random() < 0.8 else ask
    return Use(ask, {n: drawn[n] for n in names if n in said})


def _spoken(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)


def draw_offers(rng: Random, split: Split) -> list[Offer]:
    """One to four different tools, each with the uses of it that belong to the split."""
    wanted = rng.choices((1, 2, 3, 4), weights=(35, 35, 20, 10))[0]
    offers: dict[str, Offer] = {}
    while len(offers) < wanted:
        offer = from_family(rng, rng.choice(FAMILIES)) if rng.random() < 0.45 else invented(rng)
        kept = tuple(use for use in offer.uses if split.admits("tool", offer.name, *use.arguments.values()))
        if kept and offer.topic not in {o.topic for o in offers.values()}:
            offers.setdefault(offer.name, replace(offer, uses=kept))
    return list(offers.values())


def calling(offer: Offer, use: Use) -> Message:
    """The answer that calls the tool."""
    called = {"name": offer.name, "arguments": dict(use.arguments)}
    return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": called}]}


def result(rng: Random) -> tuple[Message, Message]:
    """What a tool gives back, and the answer that says it."""
    value = rng.choice((values.any_word, between(0, 999), values.decimal, values.clock, values.phrase))(rng)
    key = rng.choice(("result", "answer", "value", "status", "output"))
    content = str(value) if rng.random() < 0.4 else json.dumps({key: value})
    return {"role": "tool", "content": content}, assistant(rng.choice(AFTER).format(value))


def asks(rng: Random, split: Split, offers: list[Offer]) -> list[Message]:
    """Exchanges that use the offered tools, now and then small talk instead."""
    messages: list[Message] = []
    uses = [(offer, use) for offer in offers for use in offer.uses]
    for offer, use in rng.sample(uses, len(uses)):
        if rng.random() < 0.08:
            messages.extend(small_talk.exchange(rng))
        messages.extend((user(use.ask), calling(offer, use)))
        if rng.random() < 0.3:
            messages.extend(result(rng))
    return messages


def write(rng: Random, split: Split) -> Document:
    """A conversation with tools."""
    offers = draw_offers(rng, split)
    messages = (*small_talk.instruction(rng), *asks(rng, split, offers))
    schemas = tuple(rng.sample([o.schema for o in offers], len(offers)))
    return Document(skill="tools", messages=messages, tools=schemas, sorted_schemas=rng.random() < 0.2)


def question(rng: Random, split: Split) -> Document:
    """An evaluation case; the facts are the call that must come."""
    offers = draw_offers(rng, split)
    offer = rng.choice(offers)
    return Document(
        skill="tools",
        messages=(user(offer.uses[0].ask),),
        tools=tuple(o.schema for o in offers),
        facts={"name": offer.name, "arguments": dict(offer.uses[0].arguments)},
    )
