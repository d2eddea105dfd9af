"""What to try once a stack runs: commands that work when pasted."""

import json
import os
import shlex
import shutil
import sys
from pathlib import Path

from rich.console import Console

QUESTION = "Write a short story about a robot and a garden."


def own_command() -> str:
    """How to call this program from where the user stands: its name if it is on the PATH, else its path."""
    beside = Path(sys.executable).parent / "sagellm"
    found = shutil.which("sagellm")
    if found is not None and Path(found).resolve() == beside.resolve():
        return "sagellm"
    return shlex.quote(_short(beside))


def own_python() -> str:
    """How to call this environment's Python."""
    found = shutil.which("python")
    if found is not None and Path(found).absolute() == Path(sys.executable).absolute():
        return "python"
    return shlex.quote(_short(Path(sys.executable)))


def _short(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def curl_hint(http_url: str, model: str) -> str:
    """Ask over HTTP with nothing but curl."""
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": QUESTION}]}
    return f"curl -N {http_url}/v1/chat/completions -H 'Content-Type: application/json' \\\n  -d '{json.dumps(body)}'"


def openai_hint(http_url: str, model: str) -> str:
    """Ask with the `openai` package."""
    from importlib.util import find_spec

    code = (
        f'from openai import OpenAI; c = OpenAI(base_url="{http_url}/v1", api_key="none"); '
        f'print(c.chat.completions.create(model="{model}", '
        'messages=[{"role": "user", "content": "What is 17 + 25?"}]).choices[0].message.content)'
    )
    install = "" if find_spec("openai") else f"{own_python()} -m pip install -q openai && "
    return f"{install}{own_python()} -c '{code}'"


def publish_hint(nats_url: str, model: str, *, is_newest: bool = True) -> str:
    """Publish a request on NATS."""
    body = {"model": model, "messages": [{"role": "user", "content": "What is 48 - 19?"}]}
    where = "" if is_newest else f"--nats {shlex.quote(nats_url)} "
    return f"{own_command()} publish {where}'{json.dumps(body)}'"


def print_hints(console: Console, *, http_url: str, nats_url: str, model: str, folder: Path, stop: str) -> None:
    """Print the URLs and three things to try."""
    console.print()
    for label, value in (("HTTP", f"{http_url}/v1"), ("NATS", nats_url), ("model", model), ("logs", f"{folder}/logs")):
        console.print(f"  [bold]{label:<6}[/bold] {value}")
    tries = (
        ("curl", curl_hint(http_url, model)),
        ("the openai client", openai_hint(http_url, model)),
        ("a publish on NATS", publish_hint(nats_url, model)),
    )
    console.print("\nThree things to try in another terminal:")
    for number, (label, command) in enumerate(tries, 1):
        console.print(f"\n[bold]{number}. {label}[/bold]")
        console.print(command, style="cyan", markup=False)
    console.print(f"\n{stop}", style="bold")
