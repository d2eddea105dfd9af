"""The model registry: cards, and what can be asked of it."""

from typing import Any

from pydantic import Field

from sagellm_common.contracts.base import Message


class ModelInfo(Message):
    """One row of the manifest. `size` in bytes, `last_used` in seconds since the epoch."""

    model_id: str
    revision: str = "main"
    path: str
    size: int = 0
    last_used: float = 0.0
    tags: dict[str, str] = {}
    source: str = Field(default="local", description="builtin, local or hub")


class ModelCard(Message):
    """What a service needs to serve a model, read from its files by the registry."""

    model_id: str
    revision: str = "main"
    path: str
    architecture: str
    max_model_len: int
    vocab_size: int
    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None
    has_chat_template: bool = False
    dtype: str = ""
    parameters: int = 0
    size: int = 0
    tags: dict[str, str] = {}


class ModelQuery(Message):
    """Name one model; for `resolve`, `delete` and `touch`."""

    model_id: str = Field(min_length=1, max_length=512)
    revision: str | None = Field(default=None, max_length=256)


class ListQuery(Message):
    """List the models, all or those with a tag."""

    tags: dict[str, str] = {}


class ListReply(Message):
    """All rows of the manifest that are whole and usable."""

    models: list[ModelInfo]


class DownloadRequest(Message):
    """Download a model; it answers at once, progress and end come as `events.model.<id>`."""

    model_id: str = Field(min_length=1, max_length=512)
    revision: str | None = Field(default=None, max_length=256)


class DownloadReply(Message):
    """The download has been started, or the model is there already."""

    status: str = Field(description="started, running or present")
    model: ModelInfo | None = None


class TagRequest(Message):
    """Set tags of a model; a value of None removes one."""

    model_id: str = Field(min_length=1, max_length=512)
    tags: dict[str, str | None]


class ModelReply(Message):
    """The row after the change, and its card for `resolve`."""

    model: ModelInfo
    card: ModelCard | None = None
    detail: dict[str, Any] = {}
