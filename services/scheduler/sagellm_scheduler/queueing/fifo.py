"""First in, first out."""

from sagellm_scheduler.core.requests import Request


class Fifo:
    """The request that its gateway accepted first goes first; a continued stream keeps its place."""

    name = "fifo"

    def key(self, request: Request) -> tuple[float, ...]:
        return (request.arrival,)
