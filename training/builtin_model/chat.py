"""Renders documents with the chat template that ships with the model."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from builtin_model.corpus.document import Document

TEMPLATE_FILE = Path(__file__).parent / "chat_template.jinja"


@cache
def template(*, sort_keys: bool = False) -> Template:
    """The chat template; `tojson` writes JSON as transformers does, or with sorted keys as plain jinja2 does."""

    def tojson(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = tojson
    return environment.from_string(TEMPLATE_FILE.read_text(encoding="utf-8"))


def render(document: Document, *, add_generation_prompt: bool = False) -> str:
    """A document as the model reads it; a plain text ends with the end-of-text token."""
    if document.text:
        return document.text + "<|endoftext|>"
    return template(sort_keys=document.sorted_schemas).render(
        messages=list(document.messages),
        tools=list(document.tools),
        add_generation_prompt=add_generation_prompt,
    )
