"""What the engine keeps of one request until its gateway has everything."""

from dataclasses import dataclass, field
from typing import Any

from sagellm_common.contracts.frames import PackedLogprob, TokenItem
from sagellm_common.contracts.reports import Progress
from sagellm_common.errors import InvalidArgument
from sagellm_engine.core.types import RequestKey, TokenOutput


@dataclass(slots=True)
class ChoiceTokens:
    """The tokens of one choice from `first_index` on; those before were delivered by earlier epochs."""

    first_index: int
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[PackedLogprob] | None = None
    finish: str | None = None
    error: dict[str, Any] | None = None
    cached_tokens: int = 0
    transfer_ms: float | None = None

    @property
    def next_index(self) -> int:
        return self.first_index + len(self.token_ids)

    def add(self, key: RequestKey, output: TokenOutput) -> TokenItem:
        """Keep new tokens and return them as they go out."""
        item = TokenItem(key[0], key[1], output.choice, self.next_index, list(output.token_ids))
        if not self.token_ids:
            item.transfer_ms = self.transfer_ms
        self.token_ids += item.token_ids
        if output.cached_tokens:
            self.cached_tokens = item.cached_tokens = output.cached_tokens
        if output.logprobs is not None:
            item.logprobs = list(map(list, output.logprobs))
            self.logprobs = item.logprobs if self.logprobs is None else self.logprobs + item.logprobs
        if output.finish is not None:
            self.finish = item.finish = output.finish.value
            self.error = item.error = None if output.error is None else output.error.to_dict()
        return item

    def since(self, key: RequestKey, choice: int, from_index: int) -> TokenItem:
        """Return everything from an index on; raises InvalidArgument for an index that this epoch does not have."""
        if not self.first_index <= from_index <= self.next_index:
            raise InvalidArgument(
                f"index {from_index} is not among those of this epoch, {self.first_index} to {self.next_index}",
                param="from_index",
            )
        skip = from_index - self.first_index
        logprobs = None if self.logprobs is None else self.logprobs[skip:]
        item = TokenItem(*key, choice, from_index, self.token_ids[skip:], logprobs, self.finish, self.error)
        item.cached_tokens, item.transfer_ms = self.cached_tokens, self.transfer_ms
        return item


@dataclass(slots=True)
class Entry:
    """One epoch of a request. `trace` is the caller's own; `forget_at_end`: its gateway wants no more of it."""

    key: RequestKey
    gateway_id: str
    choices: dict[int, ChoiceTokens]
    num_prompt_tokens: int = 0
    trace: Any = None
    num_open: int = 0
    started: bool = False
    forget_at_end: bool = False

    @property
    def num_tokens(self) -> int:
        """Tokens generated in this epoch, over all choices."""
        return sum(len(choice.token_ids) for choice in self.choices.values())

    def progress(self) -> list[Progress]:
        """Return how far each choice is."""
        return [
            Progress(*self.key, number, choice.next_index, choice.finish is not None)
            for number, choice in self.choices.items()
        ]
