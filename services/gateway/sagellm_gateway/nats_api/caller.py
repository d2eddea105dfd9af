"""The far end of one NATS generation: numbered replies in the caller's inbox, and whether anybody reads them."""

import asyncio
import time

import nats.errors

from sagellm_common.bus import Bus
from sagellm_common.bus.messages import check_payload, content_headers, encode_error
from sagellm_common.codec import encode
from sagellm_common.contracts.generate import GenerateReply, Usage
from sagellm_common.errors import SageError, Unavailable
from sagellm_gateway.generation.api import Delta, Generation

# How often a reply asks the server whether the caller's inbox still has a listener.
PROBE_S = 1.0
# After the bus was away, callers need time to subscribe again: NATS clients wait 2 s between attempts by default,
# and a busy machine takes its time.
SETTLE_S = 3.5
LOOK_AGAIN_S = 0.05


def is_settled(bus: Bus) -> bool:
    """Whether callers can be expected to listen: the bus is up, and was not away a moment ago."""
    return bus.is_connected and (bus.reconnects == 0 or bus.up_for_s() >= SETTLE_S)


class Caller:
    """Sends the replies of one request; `probe` is a subject of ours where the server says that nobody listens."""

    def __init__(self, bus: Bus, inbox: str, content_type: str, probe: str) -> None:
        self._bus = bus
        self._inbox = inbox
        self._content_type = content_type
        self._probe = probe
        self._seq = 0
        self._probed_at = 0.0
        self._with_token_ids = False
        self.generation: Generation | None = None

    async def accepted(self, generation: Generation, *, with_token_ids: bool) -> None:
        """Send the first reply: it has the request's id, by which the caller may cancel."""
        await self._settled()
        self.generation = generation
        self._with_token_ids = with_token_ids
        await self._send(self._reply(generation))

    async def deltas(self, generation: Generation, deltas: list[Delta]) -> None:
        """Send what there is to see; parts of characters, stop strings or calls are not sent alone."""
        await self._settled()
        for delta in deltas:
            if self._is_worth_sending(delta):
                await self._send(self._of(generation, delta))

    def _is_worth_sending(self, delta: Delta) -> bool:
        has_content = delta.text or delta.tool_calls or delta.finish_reason or delta.logprobs
        return bool(has_content) or (self._with_token_ids and bool(delta.token_ids))

    def _of(self, generation: Generation, delta: Delta) -> GenerateReply:
        return GenerateReply(
            request_id=generation.request_id,
            seq=self._seq,
            model=generation.model,
            choice=delta.choice,
            text=delta.text,
            token_ids=delta.token_ids if self._with_token_ids else None,
            logprobs=delta.logprobs,
            tool_calls=delta.tool_calls,
            finish_reason=delta.finish_reason,
        )

    def _reply(self, generation: Generation) -> GenerateReply:
        return GenerateReply(request_id=generation.request_id, seq=self._seq, model=generation.model)

    async def finished(self, generation: Generation, usage: Usage) -> None:
        """Send the last reply of a request that went well."""
        await self._settled()
        await self._send(self._reply(generation).model_copy(update={"final": True, "usage": usage}))

    async def failed(self, error: SageError) -> None:
        """Send the last reply of a request that failed or was never accepted."""
        await self._settled()
        await self.refused(error)

    async def refused(self, error: SageError) -> None:
        """Send the last reply now, whether or not the caller is known to listen."""
        generation = self.generation
        reply = GenerateReply(
            request_id=generation.request_id if generation else "",
            seq=self._seq,
            model=generation.model if generation else "",
            final=True,
            usage=generation.usage if generation else None,
            error=error.to_dict(),
        )
        await self._send(reply, encode_error(error, self._content_type)[1])

    async def probe(self, now: float) -> None:
        """If nothing has been sent as a probe for `PROBE_S`, send an empty reply as one."""
        if self.generation is not None and is_settled(self._bus) and now - self._probed_at >= PROBE_S:
            await self._send(self._reply(self.generation))

    async def _settled(self) -> None:
        """Hold replies back while callers cannot hear them; the stream's buffer takes what comes meanwhile."""
        while not is_settled(self._bus):
            await asyncio.sleep(LOOK_AGAIN_S)

    async def _send(self, reply: GenerateReply, headers: dict[str, str] | None = None) -> None:
        data = encode(reply, self._content_type)
        headers = headers or content_headers(self._content_type)
        check_payload(data, headers, self._bus.max_payload)
        self._seq += 1  # nothing is awaited between numbering and handing over, so replies leave in order
        now = time.monotonic()
        is_probe = now - self._probed_at >= PROBE_S
        if is_probe:
            self._probed_at = now
        try:
            await self._bus.client.publish(
                self._inbox, data, reply=self._probe if is_probe else "", headers=headers or None
            )
        except (nats.errors.Error, OSError) as error:
            raise Unavailable("the bus cannot take a reply") from error
