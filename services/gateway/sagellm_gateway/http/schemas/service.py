"""Bodies of the endpoints beside generation: models, health, errors."""

from typing import Literal

from sagellm_common.contracts.base import Message


class ModelBody(Message):
    """A model that can be asked for."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["sagellm"] = "sagellm"
    max_model_len: int


class ModelList(Message):
    """All models that can be asked for."""

    object: Literal["list"] = "list"
    data: list[ModelBody]


class Health(Message):
    """Whether the gateway is well, and if not, why."""

    status: Literal["ok", "unavailable"]
    reason: str = ""


class ErrorDetails(Message):
    """What went wrong: `code` is the machine's word, `param` the field at fault."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(Message):
    """The body of every answer with a status of 400 or above, and of an event that ends a stream early."""

    error: ErrorDetails
