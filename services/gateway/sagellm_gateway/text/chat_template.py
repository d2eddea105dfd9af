"""Chat templates: the model's own jinja2 template, in a sandbox, with what transformers offers inside of it."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sagellm_common.errors import InvalidArgument


class _GenerationBlock(Extension):
    """`{% generation %}…{% endgeneration %}` marks training targets; for inference it is its content."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """JSON without HTML escapes, as transformers has it; jinja2's own filter escapes `<`, `>`, `&` and `'`."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


class ChatTemplate:
    """A compiled template and the special tokens that it may name.

    Raises `InvalidArgument` when the template's source is wrong; `origin` names its file.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str], origin: str) -> None:
        self._special_tokens = dict(special_tokens)
        self._knows_developer = "developer" in source
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise InvalidArgument(f"the chat template in {origin} is wrong: {error}") from error

    def render(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> str:
        """Render a chat up to where the assistant's answer begins.

        Raises `InvalidArgument` when the template refuses the messages, or a message is not a text message.
        """
        plain = [self._plain_message(message, i) for i, message in enumerate(messages)]
        try:
            return self._template.render(
                messages=plain, tools=tools or None, documents=None, add_generation_prompt=True, **self._special_tokens
            )
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
            message = f"the model's chat template refuses these messages: {error}"
            raise InvalidArgument(message, param="messages") from error

    def _plain_message(self, message: Mapping[str, Any], index: int) -> dict[str, Any]:
        """A message as templates expect it: text content, arguments as objects, a role that the template knows."""
        plain = {key: value for key, value in message.items() if value is not None}
        plain["content"] = _plain_content(message.get("content"), index)
        if plain.get("role") == "developer" and not self._knows_developer:
            plain["role"] = "system"
        if calls := plain.get("tool_calls"):
            plain["tool_calls"] = [_plain_call(call, index) for call in calls]
        return plain


def _plain_content(content: Any, index: int) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "".join(_part_text(part, index) for part in content)


def _part_text(part: Any, index: int) -> str:
    if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        message = f"message {index} has a content part of type {kind!r}; this model takes text parts only"
        raise InvalidArgument(message, param=f"messages.{index}.content")
    return str(part["text"])


def _plain_call(call: Any, index: int) -> dict[str, Any]:
    """A tool call of an earlier answer; OpenAI sends its arguments as a JSON text, templates want the object."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        message = f"message {index} has a tool call without a function name"
        raise InvalidArgument(message, param=f"messages.{index}.tool_calls")
    arguments = function.get("arguments") or "{}"
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (json.JSONDecodeError, RecursionError) as error:
            message = f"message {index} has a tool call whose arguments are not valid JSON"
            raise InvalidArgument(message, param=f"messages.{index}.tool_calls") from error
    return {**call, "function": {**function, "arguments": arguments}}
