"""Bringing together what several places know about models: rows of manifests and folders on disk."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from sagellm_common.errors import SageError
from sagellm_registry.disk import CONFIG, model_in, models_below
from sagellm_registry.ids import DEFAULT_REVISION, check_model_id
from sagellm_registry.manifest import Key, Manifest, Row


def merged(fixed: Iterable[Row], rows: dict[Key, Row], found: Iterable[Row]) -> dict[Key, Row]:
    """Return all models: `fixed` first, then the manifest's rows whose folders are there, then what was found.

    Of a fixed or found model, the manifest keeps what the user changed: `last_used` and `tags`.
    """
    models = {row.key: _with_user_facts(row, rows.get(row.key)) for row in fixed}
    for row in rows.values():
        if row.key not in models and (Path(row.path) / CONFIG).is_file():
            models[row.key] = row
    for row in found:
        models.setdefault(row.key, row)
    return models


def _with_user_facts(row: Row, known: Row | None) -> Row:
    return row if known is None else row.model_copy(update={"last_used": known.last_used, "tags": known.tags})


def old_models(roots: Sequence[Path]) -> Iterable[Row]:
    """Yield the models of the roots of earlier versions: their manifests know ids that folder names do not."""
    for root in roots:
        found = {row.path: row for row in models_below(root, "hub", flat=True)}
        if not found:
            continue
        for row in Manifest(root).read().values():
            on_disk = found.get(row.path)
            if on_disk is not None and _is_valid(row.model_id):
                del found[row.path]
                yield on_disk.model_copy(update={**_identity(row), "last_used": row.last_used})
        yield from found.values()


def _identity(row: Row) -> dict[str, str]:
    return {"model_id": row.model_id, "revision": row.revision}


def _is_valid(model_id: str) -> bool:
    try:
        check_model_id(model_id)
    except SageError:
        return False
    return True


def models_of_dirs(dirs: Sequence[Path]) -> Iterable[Row]:
    """Yield the models of local folders: each is a model itself, or holds models."""
    for folder in dirs:
        if not (folder / CONFIG).is_file():
            yield from models_below(folder, "local")
            continue
        try:
            yield model_in(folder, "local")
        except SageError:  # not whole: it is not listed; `add_local` says why
            continue


def choose(models: Iterable[Row], model_id: str, revision: str | None) -> Row | None:
    """Return the row of a model at a revision or commit; without one, of `main` or else the last used."""
    rows = [row for row in models if row.model_id == model_id]
    if revision is not None:
        return next((row for row in rows if revision in (row.revision, row.commit)), None)
    return max(rows, key=lambda row: (row.revision == DEFAULT_REVISION, row.last_used), default=None)
