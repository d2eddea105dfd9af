"""Names of models and revisions: checked before any of them reaches the file system."""

import re

from sagellm_common.errors import InvalidArgument

DEFAULT_REVISION = "main"

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_MODEL_ID = re.compile(rf"{_PART}(?:/{_PART})?")
_REVISION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,126}[A-Za-z0-9_-])?")


def check_model_id(model_id: str) -> str:
    """Return `model_id` if it is `name` or `org/name` of letters, digits and `._-`; raises InvalidArgument."""
    if not _MODEL_ID.fullmatch(model_id) or ".." in model_id:
        raise InvalidArgument(
            f"{model_id[:80]!r} is no model id: it is `name` or `org/name`, of letters, digits and `._-`",
            param="model_id",
        )
    return model_id


def check_revision(revision: str) -> str:
    """Return `revision` if it can be a branch, tag or commit; raises InvalidArgument."""
    if not _REVISION.fullmatch(revision) or ".." in revision or "//" in revision:
        raise InvalidArgument(
            f"{revision[:80]!r} is no revision: it is a branch, a tag or a commit hash", param="revision"
        )
    return revision


def folder_of(model_id: str, revision: str) -> str:
    """Return the folder of a model below the root: `org/name`, and `org/name@revision` for other revisions.

    Neither `@` nor `+` occurs in an id, so that no two models share a folder.
    """
    if revision == DEFAULT_REVISION:
        return model_id
    return f"{model_id}@{revision.replace('/', '+')}"


def model_of(folder: str) -> tuple[str, str]:
    """Return model id and revision of a folder below the root; the inverse of `folder_of`.

    Raises InvalidArgument if the folder is not named after a model.
    """
    model_id, _, revision = folder.partition("@")
    return check_model_id(model_id), check_revision(revision.replace("+", "/") or DEFAULT_REVISION)
