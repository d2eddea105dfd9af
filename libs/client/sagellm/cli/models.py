"""Models for people: tables, sizes, times, a progress bar."""

import time
from typing import TYPE_CHECKING

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from sagellm.cli.console import err, out
from sagellm_common.contracts.registry import ModelCard, ModelInfo

if TYPE_CHECKING:
    from sagellm_registry.store import ModelStore

UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"))


def size_text(size_bytes: int) -> str:
    """Return a size as people read it, in decimal units."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def ago_text(moment_s: float, now_s: float) -> str:
    """Return how long ago a moment was; 0 means never."""
    if moment_s <= 0:
        return "never"
    for seconds, unit in UNITS:
        if (count := int((now_s - moment_s) // seconds)) >= 1:
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


def models_table(models: list[ModelInfo]) -> Table:
    """Return one row per model."""
    table = Table("model", "revision", "size", "last used", "tags", "source", box=None, header_style="bold")
    for info in models:
        tags = ", ".join(f"{key}={value}" for key, value in sorted(info.tags.items()))
        used = ago_text(info.last_used, time.time())
        table.add_row(info.model_id, info.revision[:12], size_text(info.size), used, tags, info.source)
    return table


def print_model(info: ModelInfo, card: ModelCard) -> None:
    """Print everything that is known of a model."""
    rows = {
        "model": info.model_id,
        "revision": info.revision,
        "architecture": card.architecture,
        "parameters": f"{card.parameters / 1e6:.1f} million" if card.parameters else "unknown",
        "precision": card.dtype or "unknown",
        "context": f"{card.max_model_len} tokens",
        "vocabulary": f"{card.vocab_size} tokens",
        "chat template": "yes" if card.has_chat_template else "no",
        "size": size_text(info.size),
        "last used": ago_text(info.last_used, time.time()),
        "tags": ", ".join(f"{key}={value}" for key, value in sorted(info.tags.items())) or "none",
        "source": info.source,
        "folder": info.path,
    }
    for label, value in rows.items():
        out().print(f"{label:<14} {value}", markup=False)


def download_with_progress(store: "ModelStore", model_id: str, revision: str | None) -> None:
    """Download a model and show how far it is; Ctrl-C leaves what is there for the next attempt."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    was_here = store.has_model(model_id, revision)
    with Progress(*columns, console=err(), transient=True) as progress:
        task = progress.add_task(f"asking for {model_id}", total=None)

        def on_progress(phase: str, done: int, total: int) -> None:
            progress.update(task, description=f"{phase} {model_id}", completed=done, total=total or None)

        info = store.download_model(model_id, revision, progress=False, on_progress=on_progress)
    what = "is here already" if was_here else "is ready"
    out().print(f"{info.model_id} ({info.revision}, {size_text(info.size)}) {what}: {info.path}", markup=False)
