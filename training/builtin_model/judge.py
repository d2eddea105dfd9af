"""Says whether an answer is right, one rule for each skill."""

import json
import re
from collections.abc import Callable
from typing import Any

from builtin_model.corpus.document import Document
from builtin_model.corpus.values import json_type


def names_everything(question: Document, answer: str) -> bool:
    """A story names every thing that it was asked for."""
    return all(re.search(rf"\b{re.escape(word)}\b", answer, re.IGNORECASE) for word in question.facts["words"])


def solves(question: Document, answer: str) -> bool:
    """A sum ends with the right equation."""
    return bool(answer.rpartition("so ")[2].strip() == question.facts["equation"])


def has_keys(question: Document, answer: str) -> bool:
    """A JSON answer parses and has exactly the keys that were asked for, at every depth."""
    try:
        return _same_keys(question.facts["schema"], json.loads(answer))
    except json.JSONDecodeError:
        return False


def has_types(question: Document, answer: str) -> bool:
    """A JSON answer also has the types that were asked for."""
    return has_keys(question, answer) and _same_types(question.facts["schema"], json.loads(answer))


def calls_tool(question: Document, answer: str) -> bool:
    """An answer is one call of the right tool with exactly the right arguments."""
    found = re.fullmatch(r"\s*<tool_call>\n(.*)\n</tool_call>\s*", answer, re.DOTALL)
    try:
        call = json.loads(found[1]) if found else None
    except json.JSONDecodeError:
        return False
    return bool(call == {"name": question.facts["name"], "arguments": question.facts["arguments"]})


def _same_keys(schema: dict[str, Any], value: Any) -> bool:
    if schema["type"] != "object":
        return True
    inner = schema["properties"]
    return isinstance(value, dict) and set(value) == set(inner) and all(_same_keys(inner[k], value[k]) for k in inner)


def _same_types(schema: dict[str, Any], value: Any) -> bool:
    match schema["type"]:
        case "object":
            return all(_same_types(inner, value[key]) for key, inner in schema["properties"].items())
        case "array":
            return isinstance(value, list) and all(_same_types(schema["items"], item) for item in value)
        case "number":
            return json_type(value) in ("number", "integer")
        case wanted:
            return bool(json_type(value) == wanted)


JUDGES: dict[str, Callable[[Document, str], bool]] = {
    "stories": names_everything,
    "arithmetic": solves,
    "json": has_keys,
    "tools": calls_tool,
}
