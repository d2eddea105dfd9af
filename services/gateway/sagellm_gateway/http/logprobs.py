"""Log-probabilities in the two formats of OpenAI's APIs."""

from collections.abc import Iterable

from sagellm_common.contracts.generate import TokenLogprob
from sagellm_gateway.http.schemas.chat import ChatLogprob, ChatLogprobs, TopLogprob
from sagellm_gateway.http.schemas.completions import CompletionLogprobs

# What OpenAI writes for a token that is (next to) impossible; JSON has no infinities.
FLOOR = -9999.0


def chat_logprobs(entries: Iterable[TokenLogprob]) -> ChatLogprobs:
    """The format of chats: one object per token."""
    return ChatLogprobs(
        content=[
            ChatLogprob(
                token=entry.token,
                logprob=max(entry.logprob, FLOOR),
                bytes=_bytes(entry.token),
                top_logprobs=[
                    TopLogprob(token=top.token, logprob=max(top.logprob, FLOOR), bytes=_bytes(top.token))
                    for top in entry.top
                ],
            )
            for entry in entries
        ]
    )


def completion_logprobs(entries: list[TokenLogprob], offset: int) -> CompletionLogprobs:
    """The format of completions: parallel lists; `offset` is where the first token's text begins."""
    offsets: list[int] = []
    for entry in entries:
        offsets.append(offset)
        offset += len(entry.token)
    has_top = any(entry.top for entry in entries)
    return CompletionLogprobs(
        tokens=[entry.token for entry in entries],
        token_logprobs=[max(entry.logprob, FLOOR) for entry in entries],
        top_logprobs=[{top.token: max(top.logprob, FLOOR) for top in entry.top} for entry in entries]
        if has_top
        else None,
        text_offset=offsets,
    )


def _bytes(token: str) -> list[int] | None:
    return None if "\ufffd" in token else list(token.encode())
