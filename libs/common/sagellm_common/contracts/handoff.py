"""Engine to engine: keys and values of a prompt that one prefills and the other decodes. Packed as arrays.

The prefill engine offers its pages and says, again and again, how many have been written to the end; the decode engine
reads them directly, and after its last read closes the lease; the answer says whether the lease was valid throughout.
Everything may be repeated; a lease that has ended is answered as it ended.
"""

from dataclasses import dataclass

from sagellm_common.contracts.base import Message
from sagellm_common.contracts.frames import PackedLogprob
from sagellm_common.contracts.packed import Packed


@dataclass(slots=True)
class LeaseName(Packed):
    """One attempt to hand one request over: the prefill engine's incarnation, the request, its epoch, a nonce."""

    incarnation: str
    request_id: str
    epoch: int
    nonce: int


@dataclass(slots=True)
class KvMemory(Packed):
    """An engine's KV memory: what its pages hold and where they lie.

    Page p lies in `num_planes` pieces of `page_bytes` each, at `address` + plane × `plane_bytes` + p × `page_bytes`.
    `model` is the hash of the weights, `keys` names what a backend does to keys before it stores them, `order` how a
    page is laid out. `first_head`, `num_heads`: which of the model's key heads are there.
    """

    model: str
    keys: str
    order: str
    dtype: str
    num_layers: int
    first_head: int
    num_heads: int
    head_dim: int
    page_size: int
    num_pages: int
    address: int
    num_planes: int
    plane_bytes: int
    page_bytes: int
    device: str = "cpu"


@dataclass(slots=True)
class LeaseOffer(Packed):
    """A prompt is being prefilled for you into these pages, of which the first `num_ready` can be read already.

    `agent` is what the transport needs to read from `sender`. Answered by LeaseTaken; repeated until then.
    """

    lease: LeaseName
    sender: str
    pages: list[int]
    num_ready: int
    memory: KvMemory
    agent: bytes


@dataclass(slots=True)
class LeaseTaken(Packed):
    """Pages have been reserved for the offer; or not, and the decode engine prefills itself."""

    lease: LeaseName
    sender: str
    accepted: bool = True


@dataclass(slots=True)
class LeaseReady(Packed):
    """So many pages, counted from the first, have been written to the end; -1: nothing will come of it."""

    lease: LeaseName
    sender: str
    num_pages: int


@dataclass(slots=True)
class LeaseClose(Packed):
    """The last read is over and nothing more will be read. `wanted`: it is asked whether what was read is good.

    Answered by LeaseClosed; repeated until then.
    """

    lease: LeaseName
    sender: str
    wanted: bool


@dataclass(slots=True)
class LeaseClosed(Packed):
    """Whether the lease was valid throughout; if so with the first token, which the prefill has chosen."""

    lease: LeaseName
    sender: str
    valid: bool
    token_id: int = 0
    logprobs: PackedLogprob | None = None


class LeaseAbort(Message):
    """A gateway tells the decode engine that the prefill engine will hand nothing over: prefill it yourself."""

    request_id: str
    epoch: int
    reason: str = ""
