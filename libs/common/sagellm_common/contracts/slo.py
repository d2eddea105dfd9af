"""What a request is promised, and how urgent it is."""

from enum import IntEnum

from pydantic import Field

from sagellm_common.contracts.base import Message


class Slo(Message):
    """Service level objectives of one request, in milliseconds; None means none stated."""

    ttft_ms: float | None = Field(default=None, gt=0)
    itl_ms: float | None = Field(default=None, gt=0)
    deadline_ms: float | None = Field(default=None, gt=0, description="from acceptance to the last token")


NO_SLO = Slo()


class Priority(IntEnum):
    """Urgency classes; a smaller number goes first."""

    CRITICAL = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3
