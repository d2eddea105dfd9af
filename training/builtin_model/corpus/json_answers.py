"""JSON answers in the shape that is asked for."""

import json
from random import Random
from typing import Any

from builtin_model.corpus import values, words
from builtin_model.corpus.document import Document, Message, assistant, system, user
from builtin_model.corpus.split import Split
from builtin_model.corpus.values import Draw, between, of, several

FIELDS: dict[str, Draw] = {
    "name": of(words.NAMES),
    "first_name": of(words.NAMES),
    "full_name": values.full_name,
    "last_name": lambda rng: words.invented(rng, 2).capitalize(),
    "age": between(1, 99),
    "city": of(words.CITIES),
    "country": of(words.COUNTRIES),
    "job": of(words.JOBS),
    "profession": of(words.JOBS),
    "email": values.email,
    "phone": values.phone,
    "address": lambda rng: f"{rng.randint(1, 99)} {words.invented(rng, 2).capitalize()} Street",
    "street": lambda rng: f"{words.invented(rng, 2).capitalize()} Street",
    "zip": lambda rng: str(rng.randint(10000, 99999)),
    "color": of(words.COLOURS),
    "colour": of(words.COLOURS),
    "size": of(["small", "medium", "large"]),
    "weight": values.decimal,
    "height": between(10, 220),
    "width": between(1, 200),
    "length": between(1, 200),
    "price": values.decimal,
    "cost": values.decimal,
    "quantity": between(1, 50),
    "count": between(0, 100),
    "number": between(0, 100),
    "total": between(0, 500),
    "year": between(1900, 2030),
    "month": of(words.MONTHS),
    "day": of(words.DAYS),
    "date": values.date,
    "time": values.clock,
    "start": values.clock,
    "end": values.clock,
    "duration": between(5, 240),
    "title": values.title,
    "author": values.full_name,
    "pages": between(20, 900),
    "genre": of(["novel", "poetry", "history", "mystery", "fantasy", "comedy"]),
    "language": of(words.LANGUAGES),
    "animal": of(words.ANIMALS),
    "pet": of(words.ANIMALS),
    "species": of(words.ANIMALS),
    "food": of(words.FOODS),
    "favorite_food": of(words.FOODS),
    "hobby": of(words.HOBBIES),
    "hobbies": several(of(words.HOBBIES)),
    "friends": several(of(words.NAMES)),
    "tags": several(of(words.ADJECTIVES)),
    "colors": several(of(words.COLOURS)),
    "items": several(of(words.OBJECTS)),
    "ingredients": several(of(words.FOODS)),
    "numbers": several(between(0, 99)),
    "scores": several(between(0, 99)),
    "active": values.flag,
    "available": values.flag,
    "is_open": values.flag,
    "married": values.flag,
    "in_stock": values.flag,
    "done": values.flag,
    "id": between(1, 9999),
    "code": values.code,
    "status": of(["open", "closed", "pending", "ready"]),
    "priority": of(["low", "medium", "high"]),
    "category": of(["toys", "books", "tools", "food", "clothes", "music"]),
    "product": values.phrase,
    "item": of(words.OBJECTS),
    "object": of(words.OBJECTS),
    "material": of(["wood", "glass", "metal", "paper", "stone", "wool"]),
    "brand": lambda rng: words.invented(rng, 2).capitalize(),
    "model": values.code,
    "speed": between(1, 300),
    "temperature": between(-20, 40),
    "weather": of(["sunny", "cloudy", "rainy", "windy", "snowy"]),
    "rating": between(1, 5),
    "score": between(0, 100),
    "level": between(1, 10),
    "rooms": between(1, 9),
    "seats": between(1, 60),
    "population": between(100, 9999999),
    "message": values.sentence,
    "description": values.sentence,
    "note": values.sentence,
    "question": lambda rng: f"Where is the {rng.choice(words.OBJECTS)}?",
    "answer": values.sentence,
    "text": values.sentence,
    "summary": values.sentence,
    "place": of(words.CITIES),
    "location": of(words.CITIES),
    "team": lambda rng: f"The {rng.choice(words.ADJECTIVES).capitalize()} {rng.choice(words.ANIMALS).capitalize()}s",
    "winner": of(words.NAMES),
    "teacher": values.full_name,
    "sender": of(words.NAMES),
    "receiver": of(words.NAMES),
}
SUBJECTS = [*words.PEOPLE, *words.ANIMALS, *words.JOBS, "book", "city", "house", "car", "song", "film", "product"]
SUBJECTS += ["person", "user", "customer", "shop", "meeting", "recipe", "ship", "game", "team", "school", "pet"]
BY_NAMES = (
    "Give me a JSON object with {keys} for {subject}.",
    "Give me a JSON object with the keys {keys}.",
    "Give me a JSON object with {keys}.",
    "Answer in JSON with the keys {keys}.",
    "Write a JSON object with {keys} for {subject}.",
    "Reply with a JSON object that has the fields {keys}.",
    "Return JSON with {keys}.",
    "Describe {subject} as JSON with {keys}.",
    "Describe {subject} in JSON. Use the keys {keys}.",
    "Create JSON for {subject} with {keys}.",
    "json with {keys}",
    "I need a JSON object about {subject} with {keys}",
    "Make a JSON object with keys {keys}.",
    "Generate a JSON object with the fields {keys} for {subject}.",
)
BY_SHAPE = (
    "Reply with JSON: {shape}",
    "Answer with JSON in this shape: {shape}",
    "Return JSON like {shape}",
    "Reply with JSON for {subject}: {shape}",
    "Use this format: {shape}",
    "Describe {subject} as JSON in this form: {shape}",
    "Fill in this JSON: {shape}",
)
BY_SCHEMA = (
    "Reply with JSON that follows this schema: {schema}",
    "Answer with JSON that matches this JSON schema: {schema}",
    "JSON schema: {schema}\nGive me one example for {subject}.",
)
EXTRACT = (
    "Turn this into JSON: {facts}",
    "Extract a JSON object from this text: {facts}",
    "Convert to JSON: {facts}",
    "Write this as JSON. {facts}",
    "Put this into JSON with the keys {keys}: {facts}",
)
SYSTEMS = (
    "You answer only with JSON.",
    "Reply with a JSON object and nothing else.",
    "You are a helpful assistant that answers in JSON.",
    "Respond with valid JSON.",
)


def invented_field(rng: Random) -> tuple[str, Any]:
    """A key that no list holds, with a value of any type."""
    key = rng.choice(
        (words.invented(rng), rng.choice(words.OBJECTS), f"{rng.choice(words.VERBS)}_{rng.choice(words.OBJECTS)}")
    )
    draw: Draw = rng.choice(
        (values.any_word, values.any_word, between(0, 100), values.flag, values.decimal, several(values.any_word))
    )
    return key, draw(rng)


def draw_object(rng: Random, split: Split) -> dict[str, Any]:
    """An object of one to six fields whose set of keys belongs to the split."""
    while True:
        answer: dict[str, Any] = {}
        for _ in range(rng.choices((1, 2, 3, 4, 5, 6), weights=(6, 22, 34, 22, 10, 6))[0]):
            key = rng.choice(list(FIELDS))
            key, value = (key, FIELDS[key](rng)) if rng.random() < 0.8 else invented_field(rng)
            answer[key] = value
        if rng.random() < 0.1:
            inner = rng.sample(list(FIELDS), 2)
            answer[rng.choice(("details", "owner", "info", "place", "contact"))] = {k: FIELDS[k](rng) for k in inner}
        if split.admits("keys", *sorted(answer)):
            return answer


def shape_of(value: Any, rng: Random, style: int) -> str:
    """A value's shape as people write it down: {"name": string}."""
    match value:
        case dict():
            return "{" + ", ".join(f'"{k}": {shape_of(v, rng, style)}' for k, v in value.items()) + "}"
        case list():
            return f"[{shape_of(value[0], rng, style)}]" if style else f"[{shape_of(value[0], rng, style)}, ...]"
    name = values.json_type(value)
    return (name, f'"{name}"', "...", f"<{name}>")[style]


def schema_of(value: Any) -> dict[str, Any]:
    """A value's JSON Schema."""
    match value:
        case dict():
            inner = {k: schema_of(v) for k, v in value.items()}
            return {"type": "object", "properties": inner, "required": list(value)}
        case list():
            return {"type": "array", "items": schema_of(value[0])}
    return {"type": values.json_type(value)}


def fact(key: str, value: Any, style: int) -> str:
    """One field as a piece of text; a comma between the values of a list would be one between fields as well."""
    shown = " / ".join(map(str, value)) if isinstance(value, list) else str(value)
    plain = key.replace("_", " ") if style else key
    return (f"{key}: {shown}", f"the {plain} is {shown}", f"{plain} = {shown}")[style]


def ask(rng: Random, answer: dict[str, Any]) -> str:
    """A way of asking for an object of this shape."""
    noun = rng.choice(SUBJECTS)
    subject = f"{words.article(noun)} {noun}"
    quoted = rng.random() < 0.25
    keys = words.listed([f'"{k}"' if quoted else k for k in answer])
    if rng.random() < 0.15:
        keys = ", ".join(answer)
    nested = any(isinstance(v, dict) for v in answer.values())
    match rng.choices(
        ("names", "shape", "schema", "facts"), weights=(0 if nested else 45, 30, 10, 0 if nested else 15)
    )[0]:
        case "names":
            return rng.choice(BY_NAMES).format(keys=keys, subject=subject)
        case "shape":
            return rng.choice(BY_SHAPE).format(shape=shape_of(answer, rng, rng.randrange(4)), subject=subject)
        case "schema":
            return rng.choice(BY_SCHEMA).format(schema=json.dumps(schema_of(answer)), subject=subject)
    style = rng.randrange(3)
    facts = (", ", "; ", "\n")[rng.randrange(3)].join(fact(k, v, style) for k, v in answer.items())
    return rng.choice(EXTRACT).format(keys=keys, facts=facts)


def listing(rng: Random) -> tuple[Message, Message]:
    """A question for a list of things."""
    kind, pool = rng.choice(
        (("animals", words.ANIMALS), ("colours", words.COLOURS), ("cities", words.CITIES), ("names", words.NAMES),
         ("objects", words.OBJECTS), ("foods", words.FOODS), ("jobs", words.JOBS))
    )  # fmt: skip
    number = rng.randint(2, 5)
    spelled = rng.choice((str(number), ["two", "three", "four", "five"][number - 2]))
    form = rng.choice(("Give me a JSON list of {} {}.", "Reply with a JSON array of {} {}.", "List {} {} as JSON."))
    return user(form.format(spelled, kind)), assistant(json.dumps(rng.sample(pool, number)))


def exchange(rng: Random, split: Split) -> tuple[Message, Message]:
    """One question with its answer."""
    if rng.random() < 0.05:
        return listing(rng)
    answer = draw_object(rng, split)
    return user(ask(rng, answer)), assistant(json.dumps(answer))


def instruction(rng: Random) -> tuple[Message, ...]:
    """Now and then a system message that asks for JSON."""
    return (system(rng.choice(SYSTEMS)),) if rng.random() < 0.25 else ()


def write(rng: Random, split: Split) -> Document:
    """A conversation of one to three JSON answers."""
    messages: list[Message] = [*instruction(rng)]
    for _ in range(rng.choice((1, 1, 2, 3))):
        messages.extend(exchange(rng, split))
    return Document(skill="json", messages=tuple(messages))


def question(rng: Random, split: Split) -> Document:
    """An evaluation case; the fact is the schema that the answer must follow."""
    answer = draw_object(rng, split)
    return Document(
        skill="json",
        messages=(*instruction(rng), user(ask(rng, answer))),
        facts={"schema": schema_of(answer)},
    )
