"""What engines publish about themselves: step samples, gauges, heartbeat. Hot: packed as arrays."""

from dataclasses import dataclass, field

from sagellm_common.contracts.packed import Packed


@dataclass(slots=True)
class StepSample(Packed):
    """One engine step: what it computed and how long it took."""

    duration_s: float
    rows: int
    prefill_tokens: int
    decode_seqs: int
    context_tokens: int
    chunk_x_context: int
    cached_tokens: int = 0
    preemptions: int = 0


@dataclass(slots=True)
class Gauges(Packed):
    """State of an engine now. `busy` is the share of the last second spent in steps, 0 to 1.

    `waiting_tokens` are all tokens of the sequences that wait. Of those that run, `prefilling` have not had their
    first token yet. `prefill_tokens` are still to be computed, of these and of those that wait, without what is in the
    prefix cache. `itl_limit_s`: the promised time from token to token to which steps are kept for the sake of those
    that decode; 0 if there is none. `leaving` of those that run or wait, with `leaving_tokens`, are prompts for
    other engines, which answer. `expected` of those that wait have their prompts computed by another engine.
    """

    pages_total: int
    pages_free: int
    pages_cached: int
    waiting: int
    running: int
    waiting_tokens: int
    running_tokens: int
    busy: float
    prefilling: int = 0
    prefill_tokens: int = 0
    itl_limit_s: float = 0.0
    leaving: int = 0
    leaving_tokens: int = 0
    expected: int = 0


@dataclass(slots=True)
class Progress(Packed):
    """How far one choice of a request is: the index behind its last token, and whether it has ended."""

    request_id: str
    epoch: int
    choice: int
    next_index: int
    final: bool


@dataclass(slots=True)
class EngineReport(Packed):
    """Batched step samples and the heartbeat of one engine.

    `number` counts the reports of an incarnation. `leader_epoch` and `last_assignment` name the highest assignment
    seen. `progress` (in heartbeats) says per gateway how far each unacknowledged request is, so that lost frames are
    noticed; `kv_number` the last event of its prefix cache, for schedulers that have missed it.
    """

    engine_id: str
    incarnation: str
    number: int
    gauges: Gauges
    leader_epoch: list[int]
    last_assignment: int
    state: str = "ready"
    steps: list[StepSample] = field(default_factory=list)
    progress: dict[str, list[Progress]] = field(default_factory=dict)
    kv_number: int = 0
