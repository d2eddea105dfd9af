"""Faults of the hub and its library, as errors of our tree."""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from sagellm_common.errors import (
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    SageError,
    Unauthenticated,
    Unavailable,
)

HUB = "https://huggingface.co"
# The base of every fault of the HTTP library that huggingface_hub is built on; which one depends on its version.
_HTTP_FAULT: type[Exception] = HfHubHTTPError.__bases__[0]


@contextmanager
def translated(model_id: str, revision: str, endpoint: str | None) -> Iterator[None]:
    """Run the block; faults of the hub become errors that say what to do. A full disk passes as it is."""
    try:
        yield
    except (HfHubHTTPError, EntryNotFoundError, OfflineModeIsEnabled, HFValidationError, _HTTP_FAULT) as error:
        raise _translate(error, model_id, revision, endpoint or HUB) from error


def _translate(error: Exception, model_id: str, revision: str, hub: str) -> SageError:
    if isinstance(error, GatedRepoError):
        return PermissionDenied(f"{model_id} is gated: accept its terms at {hub}/{model_id} and set HF_TOKEN")
    if isinstance(error, RepositoryNotFoundError):
        return NotFound(f"Model '{model_id}' not found at {hub}: check its name; if it is private, set HF_TOKEN")
    if isinstance(error, RevisionNotFoundError):
        return NotFound(f"Model '{model_id}' not found at {hub}: it has no revision '{revision}'")
    if isinstance(error, HFValidationError):
        return InvalidArgument(f"{model_id!r} is no model id of the hub", param="model_id")
    if isinstance(error, OfflineModeIsEnabled):
        return Unavailable(f"downloading {model_id} needs the network: unset HF_HUB_OFFLINE")
    if isinstance(error, HfHubHTTPError):
        return _by_status(error, model_id, hub)
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, HfHubHTTPError):
        return _translate(error.__cause__, model_id, revision, hub)
    return Unavailable(f"the hub at {hub} cannot be reached ({type(error).__name__}): run it again to go on")


def _by_status(error: HfHubHTTPError, model_id: str, hub: str) -> SageError:
    status = error.response.status_code if error.response is not None else 0
    if status == 401:
        return Unauthenticated(f"{hub} refuses the token in HF_TOKEN for {model_id}")
    if status == 403:
        return PermissionDenied(f"{hub} refuses access to {model_id}: the token in HF_TOKEN lacks the right")
    if status == 404:
        return NotFound(f"Model '{model_id}' not found at {hub}: a file of it is missing there")
    if status == 429:
        return ResourceExhausted(f"{hub} asks for fewer requests: try again later", retry_after_s=60.0)
    return Unavailable(f"{hub} answered with status {status} for {model_id}: run it again to go on")
