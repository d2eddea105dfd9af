"""The replies to one request on NATS, turned into chunks; nothing here does I/O."""

from sagellm.client.results import Chunk, ChunkChoice, Delta
from sagellm_common.contracts.generate import GenerateReply, ToolCall
from sagellm_common.errors import Unavailable, error_from_dict


class ReplyReader:
    """Takes the replies of one request in the order of their arrival and checks that none is missing.

    `done` becomes true with the final reply. A reply that comes twice is dropped; a missing one raises Unavailable,
    because text without it would be wrong.
    """

    def __init__(self, is_chat: bool, created: int) -> None:
        self._is_chat = is_chat
        self._created = created
        self._expected = 0
        self.request_id: str | None = None
        self.done = False

    def take(self, reply: GenerateReply) -> Chunk | None:
        """Return the chunk in this reply; None if it has nothing new. Raises the error that it carries."""
        self.request_id = self.request_id or reply.request_id
        if reply.seq < self._expected or self.done:
            return None
        if reply.seq > self._expected and reply.error is None:
            raise Unavailable(
                f"replies {self._expected} to {reply.seq - 1} of request {reply.request_id} were lost on the way; "
                "the answer would be wrong without them, so send the request again"
            )
        self._expected = reply.seq + 1
        self.done = reply.final
        if reply.error is not None:
            raise error_from_dict(reply.error)
        return self._chunk(reply)

    def _chunk(self, reply: GenerateReply) -> Chunk | None:
        has_content = bool(reply.text or reply.token_ids or reply.tool_calls or reply.finish_reason or reply.logprobs)
        if not has_content and reply.usage is None:
            return None
        return Chunk(
            id=reply.request_id,
            model=reply.model,
            object="chat.completion.chunk" if self._is_chat else "text_completion",
            created=self._created,
            choices=[self._choice(reply)] if has_content else [],
            usage=reply.usage,
        )

    def _choice(self, reply: GenerateReply) -> ChunkChoice:
        calls = [_openai_call(i, call) for i, call in enumerate(reply.tool_calls or ())] or None
        delta = Delta(role="assistant", content=reply.text or None, tool_calls=calls) if self._is_chat else None
        return ChunkChoice(
            index=reply.choice,
            delta=delta,
            text=None if self._is_chat else reply.text,
            finish_reason=reply.finish_reason,
            logprobs=[entry.model_dump() for entry in reply.logprobs] if reply.logprobs else None,
            token_ids=reply.token_ids,
        )


def _openai_call(index: int, call: ToolCall) -> dict[str, object]:
    return {
        "index": index,
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }
