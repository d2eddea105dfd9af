"""Where the launcher keeps logs, records and locks: the XDG state directory."""

import os
from pathlib import Path


def state_dir() -> Path:
    """Return SAGELLM_STATE_DIR, else `sagellm` in XDG_STATE_HOME, else `~/.local/state/sagellm`."""
    if own := os.environ.get("SAGELLM_STATE_DIR"):
        return Path(own).expanduser().absolute()
    xdg = os.environ.get("XDG_STATE_HOME", "")
    base = Path(xdg) if xdg.startswith("/") else Path.home() / ".local" / "state"
    return base / "sagellm"


def runs_dir() -> Path:
    """The folder that holds one folder per stack."""
    return state_dir() / "run"


def run_dir(name: str) -> Path:
    """The folder of the stack `name`: its record, its logs, its nats-server's files."""
    return runs_dir() / name
