"""One engine as the scheduler sees it: registration, last report, reservations, and its slot in the columns."""

from dataclasses import dataclass, field

from sagellm_common.contracts.engines import EngineRegistration
from sagellm_common.contracts.reports import EngineReport, Gauges
from sagellm_scheduler.core.reservations import Mark, Reservations
from sagellm_scheduler.perf_model.engine_times import EngineTimes

NOTHING_SEEN: Mark = ((0, 0), 0)


@dataclass(slots=True, eq=False)
class Engine:
    """State of one engine incarnation. Times are seconds on the scheduler's clock; `heard_at` None: never heard.

    `is_stale` is set when the last report is too old to be counted on; `is_lost` when its silence has lasted a whole
    timeout. `next_number` numbers its assignments under our leader epoch, from 1. At
    `asked_at` it was asked for its prefix cache, of which its last report named the event `kv_number`.
    """

    registration: EngineRegistration
    slot: int
    times: EngineTimes
    is_registered: bool = True
    is_lost: bool = False
    is_stale: bool = True
    heard_at: float | None = None
    since: float = 0.0
    asked_at: float = float("-inf")
    kv_number: int = 0
    report: EngineReport | None = None
    seen: Mark = NOTHING_SEEN
    next_number: int = 1
    reservations: Reservations = field(default_factory=Reservations)

    @property
    def engine_id(self) -> str:
        return self.registration.engine_id

    @property
    def incarnation(self) -> str:
        return self.registration.incarnation

    @property
    def max_context(self) -> int:
        """Tokens of the longest context that it can hold."""
        return min(self.registration.max_model_len, self.total_tokens)

    @property
    def total_tokens(self) -> int:
        """Tokens that its KV pages hold together."""
        return self.registration.num_pages * self.registration.page_size

    @property
    def is_ready(self) -> bool:
        """Whether it may be given requests: registered, heard of, and not draining."""
        return not self.why_not_ready()

    def why_not_ready(self) -> str:
        """Say why it may be given nothing, or return an empty string."""
        if self.is_lost:
            return "lost: no heartbeat for a whole timeout"
        if not self.is_registered:
            return "no longer registered"
        if self.report is None:
            return "not heard of yet"
        state = self.report.state if self.registration.state == "ready" else self.registration.state
        return "" if state == "ready" else state

    def seqs(self) -> int:
        """Sequence slots taken: what it reported and what it has not seen yet; or what is in flight, if stale."""
        gauges = self._gauges()
        if gauges is None:
            return self.reservations.seqs
        return gauges.running + gauges.waiting + self.reservations.unseen_seqs

    def answers(self) -> int:
        """How many of these it answers itself: the others are prompts for other engines."""
        gauges = self._gauges()
        return self.seqs() - self.reservations.unseen_leaving - (0 if gauges is None else gauges.leaving)

    def tokens(self) -> int:
        """KV tokens spoken for: the larger of what is in use and what all in flight are expected to need."""
        gauges = self._gauges()
        if gauges is None:
            return self.reservations.tokens
        used_pages = gauges.pages_total - gauges.pages_free - gauges.pages_cached
        used = used_pages * self.registration.page_size + gauges.waiting_tokens
        return max(used + self.reservations.unseen_tokens, self.reservations.tokens)

    def decoding(self) -> int:
        """Sequences that take a step each; all in flight that it answers itself, if the report is stale."""
        gauges = self._gauges()
        return self.answers() if gauges is None else gauges.running - gauges.prefilling

    def context(self) -> int:
        """Tokens of the contexts of all that it answers itself."""
        gauges, reserved = self._gauges(), self.reservations
        if gauges is None:
            return reserved.tokens - reserved.unseen_leaving_tokens
        reported = gauges.running_tokens + gauges.waiting_tokens - gauges.leaving_tokens
        return reported + reserved.unseen_prefill - reserved.unseen_leaving_prefill

    def backlog(self) -> tuple[int, int]:
        """Prefill tokens that it has still to compute, and of how many prompts."""
        gauges, reserved = self._gauges(), self.reservations
        if gauges is None:
            return reserved.unseen_prefill, reserved.unseen_prompts
        tokens = gauges.prefill_tokens + reserved.unseen_prefill
        return tokens, gauges.waiting - gauges.expected + gauges.prefilling + reserved.unseen_prompts

    def limit_s(self) -> float:
        """Time from token to token to which it keeps its steps, for the sake of what runs there or will; 0: none.

        Promises that are shorter than a step without prompts are lost, and it keeps none of them.
        """
        base, _, decode, context = self.times.coefficients[:4].tolist()
        answers_s = base + decode * self.decoding() + context * self.context()
        told = 0.0 if self.report is None else self.report.gauges.itl_limit_s
        limits = (self.reservations.least_promise(answers_s), told)
        return min((limit for limit in limits if limit > 0.0), default=0.0)

    def has_room(self) -> bool:
        """Whether a sequence slot is free."""
        return self.is_ready and self.seqs() < self.registration.max_num_seqs

    def _gauges(self) -> Gauges | None:
        return None if self.is_stale or self.report is None else self.report.gauges
