"""What a simulated engine computes, step by step or many equal steps at once: the engine's batching, by counts."""

from bisect import insort
from dataclasses import dataclass

from sagellm_engine.batching.pace import UNBOUNDED, Pace
from sagellm_engine.core.types import StepReport
from sagellm_simulation.pages import PageCount, Sequence, pages_for
from sagellm_simulation.specs import PAGE_SIZE, EngineSpec


@dataclass(slots=True)
class Step:
    """What a step computes, as step reports have it."""

    prefill: int = 0
    decode: int = 0
    context: int = 0
    products: int = 0
    cached: int = 0
    preemptions: int = 0

    @property
    def rows(self) -> int:
        return self.prefill + self.decode


class Batcher:
    """Running and waiting sequences of one engine. The order of everything is that of `sagellm_engine.batching`."""

    def __init__(self, spec: EngineSpec, block: int) -> None:
        self.spec = spec
        self.pages = PageCount(spec.num_pages, block)
        self.running: list[Sequence] = []
        self.waiting: list[Sequence] = []
        self.num_reserved = 0
        self.pace, self.limit_s = Pace(), UNBOUNDED

    def submit(self, seq: Sequence) -> None:
        """Let a sequence wait."""
        seq.foreseen = len(self.pages.prefix(seq)) * self.pages.block
        insort(self.waiting, seq, key=_rank)

    def has(self, seq: Sequence) -> bool:
        """Whether a sequence runs or waits; one that is held for another engine does neither."""
        return seq in self.running or seq in self.waiting

    def remove(self, seq: Sequence) -> None:
        """Take a sequence out, wherever it is, and its pages back."""
        if seq in self.waiting:
            self.waiting.remove(seq)
        elif seq in self.running:
            self.running.remove(seq)
        self.pages.release(seq)

    def plan(self) -> Step:
        """Decide the next step; `scheduled` of each running sequence says its part."""
        step = Step()
        self._make_room(step)
        budget = self._grow(step)
        if not step.preemptions:
            self._admit(step, budget)
        return step

    def repeats(self, step: Step) -> int:
        """How often a step can be made before anything but the lengths changes; 1 unless all decode.

        A step that preempts admits nobody; the next one may. The last token of a prompt may be a step of its own, which
        looks like decoding and makes a first token.
        """
        if step.prefill or step.preemptions or not self.running:
            return 1
        if any(seq.length == seq.prompt for seq in self.running):
            return 1
        most = min(seq.limit - seq.length for seq in self.running)
        left = self.pages.free + self.pages.cached
        if len(self.running) * (pages_for(most) + 1) > left:  # else there are enough in any case
            while most > 1 and self._pages_needed(most) > left:
                most //= 2
        return max(1, most)

    def seconds(self, step: Step, times: int) -> float:
        """How long so many repetitions of a step take, contexts growing by a token a sequence each time."""
        first = self.spec.seconds(step.prefill, step.decode, step.context, step.products)
        return times * first + self.spec.context * step.decode * (times * (times - 1) / 2)

    def commit(self, times: int) -> list[Sequence]:
        """The planned step has been made so often; returns those that have got a token, prompts prefilled for other
        engines left out."""
        made, short, more = [], [], times - 1
        for seq in self.running:
            if not seq.scheduled:
                continue
            computed = seq.computed = seq.computed + seq.scheduled + more
            if seq.known < len(seq.blocks):
                self.pages.index_computed(seq)
            length = seq.length + more
            if computed >= length and not seq.hand_to:
                seq.length = length + 1
                made.append(seq)
                if length > seq.capacity:
                    short.append(seq)
        for seq in short:
            self.pages.grow(seq, pages_for(seq.length - 1) - seq.capacity // PAGE_SIZE)
        return made

    def observe(self, step: Step, seconds: float) -> None:
        """A step has taken so long."""
        self.pace.observe(
            StepReport(seconds, step.rows, step.prefill, step.decode, step.context, step.products, step.cached)
        )

    def finish(self, seq: Sequence) -> None:
        """A sequence is at its end."""
        self.running.remove(seq)
        self.pages.release(seq)

    def _pages_needed(self, times: int) -> int:
        """Pages that are missing for so many more tokens each."""
        return sum(
            pages_for(seq.length + times - 1) - seq.capacity // PAGE_SIZE
            for seq in self.running
            if seq.length + times - 1 > seq.capacity
        )

    def _make_room(self, step: Step) -> None:
        for seq in [seq for seq in self.running if seq.length > seq.capacity]:
            while seq in self.running and not self.pages.grow(seq):
                victim = min(
                    (other for other in self.running if not other.hand_to),
                    key=lambda other: (-other.priority, other.computed),
                )
                self.running.remove(victim)
                self.pages.release(victim)
                self.submit(victim)
                step.preemptions += 1

    def _grow(self, step: Step) -> int:
        prefilling, limits, context = [], set(), 0
        for seq in self.running:
            length = seq.length
            if seq.computed == length - 1:
                seq.scheduled = 1
                context += length
                if seq.itl_s is not None:
                    limits.add(seq.itl_s)
            else:
                seq.scheduled = 0
                prefilling.append(seq)
        step.decode, step.context = len(self.running) - len(prefilling), context
        before = prefilling[0].computed if prefilling else 0
        self.limit_s, allowed = self.pace.allowance(limits, step.decode, step.context, before)
        budget = min(self.spec.max_batch_tokens - step.decode, allowed)
        for seq in prefilling:
            budget = self._chunk(seq, step, budget)
        return budget

    def _admit(self, step: Step, budget: int) -> None:
        while self.waiting and budget > 0 and len(self.running) + self.num_reserved < self.spec.max_num_seqs:
            seq = self.waiting[0]
            if not self.pages.admit(seq, len(self.running)):
                return
            self.waiting.pop(0)
            self.running.append(seq)
            step.cached += seq.cached_tokens
            budget = self._chunk(seq, step, budget)

    def _chunk(self, seq: Sequence, step: Step, budget: int) -> int:
        chunk = min(seq.length - seq.computed, max(0, budget))
        seq.scheduled = chunk
        step.prefill += chunk
        step.products += chunk * (seq.computed + chunk)
        budget -= chunk
        if seq.computed + chunk < seq.length:
            return budget
        return min(budget, self.pace.behind(seq.itl_s, step.decode, step.context))


def _rank(seq: Sequence) -> tuple[int, float, int]:
    return seq.priority, seq.arrival, seq.order
