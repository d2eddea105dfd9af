"""What a Compose file says, read as `docker compose` reads it: variables put in, profiles applied, `.env` beside it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

COMPOSE = Path(__file__).parents[2] / "compose"
_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<text>[^}]*))?\}")


@dataclass(frozen=True, slots=True)
class ComposeService:
    """One service: its command, environment and profiles, as far as a process needs them; `raw` has the rest."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str]
    profiles: tuple[str, ...]
    raw: Mapping[str, Any]


def dot_env(path: Path = COMPOSE / ".env") -> dict[str, str]:
    """Return the variables of a `.env` file."""
    lines = [line.strip() for line in path.read_text().splitlines()]
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def load(variables: Mapping[str, str], path: Path = COMPOSE / "compose.yaml") -> dict[str, Any]:
    """Return the file's content with `variables` put in; a required one that is missing fails."""
    text = path.read_text()
    comments_out = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    content: dict[str, Any] = yaml.safe_load(_VARIABLE.sub(lambda match: _value(match, variables), comments_out))
    return content


def services(content: Mapping[str, Any], profile: str) -> dict[str, ComposeService]:
    """Return the services that start with `profile`."""
    every = (_service(name, raw) for name, raw in content["services"].items())
    return {service.name: service for service in every if not service.profiles or profile in service.profiles}


def _value(match: re.Match[str], variables: Mapping[str, str]) -> str:
    value = variables.get(match["name"], "")
    if value:
        return value
    assert match["kind"] != "?", f"{match['name']} is required: {match['text']}"
    return match["text"] or ""


def _service(name: str, raw: Mapping[str, Any]) -> ComposeService:
    environment = {key: str(value) for key, value in raw.get("environment", {}).items()}
    return ComposeService(name, tuple(raw.get("command", ())), environment, tuple(raw.get("profiles", ())), raw)
