"""From tokens of one choice to what a client sees: characters, stop strings, tool calls, log-probabilities."""

from collections.abc import Sequence
from typing import Protocol, cast

from sagellm_common.contracts.frames import PackedLogprob
from sagellm_common.contracts.generate import FinishReason, TokenLogprob, ToolCall
from sagellm_gateway.generation.api import Delta
from sagellm_gateway.text.detokenizer import Detokenizer
from sagellm_gateway.text.stops import StopMatcher
from sagellm_gateway.text.tools import ToolCallParser


class TokenTexts(Protocol):
    """Names single tokens."""

    def token_text(self, token_id: int) -> str:
        """Return the text of one token."""


class ChoicePipeline:
    """State of one choice; each step costs what its request asked for and nothing else."""

    __slots__ = ("_choice", "_detokenizer", "_stops", "_texts", "_tools", "called_tools", "finish")

    def __init__(
        self,
        choice: int,
        detokenizer: Detokenizer,
        *,
        stops: StopMatcher | None = None,
        tools: ToolCallParser | None = None,
        texts: TokenTexts | None = None,
    ) -> None:
        """`texts` is given if log-probabilities are wanted."""
        self._choice = choice
        self._detokenizer = detokenizer
        self._stops = stops
        self._tools = tools
        self._texts = texts
        self.called_tools = False
        self.finish: FinishReason | None = None

    @property
    def is_plain(self) -> bool:
        """Whether tokens of several items may be taken at once."""
        return self._stops is None and self._texts is None

    def push(self, token_ids: list[int], logprobs: Sequence[PackedLogprob] | None, finish: str | None) -> Delta:
        """Take tokens in order; `finish` is the engine's word that nothing follows.

        A stop string ends the choice at the token that completed it, whatever came with it.
        """
        stops = self._stops
        if stops is None:
            text = self._detokenizer.push(token_ids)
            return self._delta(text, token_ids, logprobs, finish)
        parts: list[str] = []
        for used, token_id in enumerate(token_ids, start=1):
            shown, stopped = stops.push(self._detokenizer.push((token_id,)))
            parts.append(shown)
            if stopped:
                return self._delta("".join(parts), token_ids[:used], logprobs, "stop", stopped=True)
        return self._delta("".join(parts), token_ids, logprobs, finish)

    def _delta(
        self,
        text: str,
        token_ids: list[int],
        logprobs: Sequence[PackedLogprob] | None,
        finish: str | None,
        *,
        stopped: bool = False,
    ) -> Delta:
        if finish is not None and not stopped:
            text, stopped = self._flush_text(text)
        calls: list[ToolCall] | None = None
        if self._tools is not None:
            text, calls = self._parse_tools(self._tools, text, finish is not None)
        delta = Delta(self._choice, text, token_ids, self._logprobs(token_ids, logprobs), calls)
        if finish is not None:
            delta.finish_reason = self.finish = self._reason("stop" if stopped else finish)
        return delta

    def _flush_text(self, text: str) -> tuple[str, bool]:
        rest = self._detokenizer.flush()
        if self._stops is None:
            return text + rest, False
        shown, stopped = self._stops.push(rest)
        return text + shown + ("" if stopped else self._stops.flush()), stopped

    def _parse_tools(self, parser: ToolCallParser, text: str, ended: bool) -> tuple[str, list[ToolCall] | None]:
        text, calls = parser.push(text)
        if ended:
            more, last = parser.flush()
            text, calls = text + more, [*calls, *last]
        self.called_tools = self.called_tools or bool(calls)
        return text, calls or None

    def _reason(self, finish: str) -> FinishReason:
        return "tool_calls" if self.called_tools and finish == "stop" else cast(FinishReason, finish)

    def _logprobs(self, token_ids: Sequence[int], packed: Sequence[PackedLogprob] | None) -> list[TokenLogprob] | None:
        texts = self._texts
        if texts is None or packed is None:
            return None
        return [_logprob(texts, token_id, entry) for token_id, entry in zip(token_ids, packed, strict=False)]


def _logprob(texts: TokenTexts, token_id: int, packed: PackedLogprob) -> TokenLogprob:
    top = [
        TokenLogprob(token=texts.token_text(other), token_id=other, logprob=value) for other, value in packed[1] or ()
    ]
    return TokenLogprob(token=texts.token_text(token_id), token_id=token_id, logprob=packed[0], top=top)
