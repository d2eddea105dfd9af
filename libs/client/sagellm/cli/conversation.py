"""A conversation in the terminal: what was said, and the loop that asks for more."""

import sys
from collections.abc import Callable, Iterable

from sagellm.cli.console import err, out
from sagellm_common.errors import SageError, Unavailable

HELP = "/reset begins anew, /quit ends, Ctrl-C stops an answer."


class Conversation:
    """The messages of one conversation, as OpenAI has them."""

    def __init__(self, system: str | None) -> None:
        self._system = system
        self.messages: list[dict[str, str]] = []
        self.reset()

    def reset(self) -> None:
        """Forget everything but the system prompt."""
        self.messages = [{"role": "system", "content": self._system}] if self._system else []

    def ask(self, text: str) -> None:
        """Add what the user says."""
        self.messages.append({"role": "user", "content": text})

    def take_back(self) -> None:
        """Forget the last question, which got no answer."""
        if self.messages and self.messages[-1]["role"] == "user":
            self.messages.pop()

    def show(self, pieces: Iterable[str]) -> None:
        """Print an answer as it comes and remember it, also one that was interrupted."""
        said: list[str] = []
        try:
            for piece in pieces:
                said.append(piece)
                out().print(piece, end="", style="green", markup=False)
        finally:
            out().print()
            if said:
                self.messages.append({"role": "assistant", "content": "".join(said)})


def converse(model: str, system: str | None, answer: Callable[[Conversation], None]) -> None:
    """Read lines and have each answered, until /quit or the end of the input; an error ends a turn only.

    Without a terminal it ends with the first error, so that scripts notice.
    """
    conversation = Conversation(system)
    is_interactive = sys.stdin.isatty()
    if is_interactive:
        err().print(f"[bold]{model}[/bold]. {HELP}")
    while (line := _read(is_interactive)) is not None:
        if line in ("/quit", "/exit"):
            return
        if line == "/reset":
            conversation.reset()
            err().print("Forgotten.", style="dim")
        elif line.startswith("/"):
            err().print(f"Unknown command. {HELP}", style="yellow")
        elif line:
            _turn(conversation, line, answer, is_interactive)


def _turn(conversation: Conversation, line: str, answer: Callable[[Conversation], None], is_interactive: bool) -> None:
    conversation.ask(line)
    try:
        answer(conversation)
    except KeyboardInterrupt:
        if not is_interactive:
            raise
        err().print("Stopped.", style="dim")
    except SageError as error:
        if not is_interactive:
            raise
        err().print(error.message, style="red", markup=False)
        if isinstance(error, Unavailable):
            err().print("The conversation is kept; try again when the service is back.", style="dim")
    finally:
        conversation.take_back()


def _read(is_interactive: bool) -> str | None:
    """Return the next line, None at the end or after Ctrl-C at the prompt."""
    if is_interactive:
        import readline  # noqa: F401  # importing it gives `input` editing and history
    try:
        return input("> " if is_interactive else "").strip()
    except (EOFError, KeyboardInterrupt):
        if is_interactive:
            err().print()
        return None
