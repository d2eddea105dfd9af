"""One choice of a request while the engine works on it."""

from enum import Enum

from sagellm_engine.core.types import EngineRequest, SamplingParams


class SequenceStatus(Enum):
    """Where a sequence is."""

    HELD = "held"  # waits until the first choice has prefilled the prompt they share
    WAITING = "waiting"  # in the queue, owns no pages
    RUNNING = "running"  # owns pages
    FINISHED = "finished"  # owns nothing any more


class SequenceState:
    """Tokens, progress and pages of one choice. Owned by the core; runners only read it.

    `tokens` is the prompt with everything generated so far. The first `num_computed` have their keys and values in
    `pages`; the step at hand computes `num_scheduled` more. `capacity` is the number of tokens that `pages` hold.
    `prefix_node` and `num_indexed` say how far its full pages are in the prefix index, `block_hash` is the chained hash
    of its last index block there. `foreseen` tokens of it were in the prefix cache when it began to wait.
    `runner_state` is the runner's to write: what it derived from the request once.
    """

    __slots__ = (
        "block_hash",
        "cached_tokens",
        "capacity",
        "choice",
        "first_unsent",
        "foreseen",
        "itl_s",
        "num_computed",
        "num_indexed",
        "num_prompt",
        "num_scheduled",
        "order",
        "pages",
        "prefix_node",
        "request",
        "runner_state",
        "sampling",
        "status",
        "stop_ids",
        "token_limit",
        "tokens",
    )

    def __init__(
        self, request: EngineRequest, choice: int, *, stop_ids: frozenset[int], max_model_len: int, order: int
    ) -> None:
        delivered = request.delivered[choice] if request.delivered else ()
        self.request = request
        self.choice = choice
        self.sampling: SamplingParams = request.sampling
        self.stop_ids = stop_ids
        self.tokens: list[int] = [*request.prompt_token_ids, *delivered]
        self.num_prompt = len(request.prompt_token_ids)
        self.token_limit = min(self.num_prompt + request.sampling.max_tokens, max_model_len)
        self.itl_s = request.itl_s
        self.order = order
        self.status = SequenceStatus.HELD
        self.first_unsent = True
        self.cached_tokens = 0
        self.foreseen = 0
        self.pages: list[int] = []
        self.capacity = 0
        self.num_computed = 0
        self.num_scheduled = 0
        self.prefix_node = 0
        self.num_indexed = 0
        self.block_hash = 0
        self.runner_state: object = None

    @property
    def num_output(self) -> int:
        """Tokens generated so far, those of earlier epochs included."""
        return len(self.tokens) - self.num_prompt

    @property
    def samples(self) -> bool:
        """Whether the step at hand reaches the last token, so that a new one is chosen."""
        return self.num_computed + self.num_scheduled == len(self.tokens)

    def forget_progress(self) -> None:
        """Start over from no pages; the caller has given them back."""
        self.pages = []
        self.capacity = self.num_computed = self.num_scheduled = self.prefix_node = self.num_indexed = 0
