"""The batching policy: one plain function decides a step.

Running sequences grow first, decoding ones by a token each, prefilling ones by a chunk; what is left of the token
budget admits waiting ones. Where decoding ones are promised a time from token to token, prompts get no more of a step
than that leaves; nor do those behind a prompt that ends in the step, whose first token they would hold up. A sequence
gets pages for all its tokens when admitted, so that only decoding can run out of pages; then the sequence with the
least computed work (of the least urgent) gives its pages back and waits again.
The one with the most work is never chosen, so that some request always comes to its end; nor is one whose pages another
engine may be reading.
"""

from dataclasses import dataclass, field

from sagellm_engine.batching.pace import UNBOUNDED, Pace
from sagellm_engine.batching.queue import WaitingQueue
from sagellm_engine.core.sequence import SequenceState, SequenceStatus
from sagellm_engine.core.types import RequestKey
from sagellm_engine.kv.pool import PagePool


@dataclass(slots=True)
class StepPlan:
    """The rows of a step, decoding ones first, and what they amount to (see StepReport).

    `limit_s` is the time from token to token that is kept to, of those that are promised to the decoding rows.
    """

    rows: list[SequenceState] = field(default_factory=list)
    decode_seqs: int = 0
    prefill_tokens: int = 0
    context_tokens: int = 0
    chunk_x_context: int = 0
    cached_tokens: int = 0
    preemptions: int = 0
    admitted: list[RequestKey] = field(default_factory=list)
    limit_s: float = UNBOUNDED

    def add_chunk(self, seq: SequenceState, budget: int, pace: Pace) -> int:
        """Schedule as much of a sequence's remaining tokens as the budget allows; return what is left for others."""
        chunk = min(len(seq.tokens) - seq.num_computed, budget)
        seq.num_scheduled = chunk
        self.rows.append(seq)
        self.prefill_tokens += chunk
        self.chunk_x_context += chunk * (seq.num_computed + chunk)
        budget -= chunk
        if seq.num_computed + chunk < len(seq.tokens):
            return budget
        return min(budget, pace.behind(seq.itl_s, self.decode_seqs, self.context_tokens))


def plan_step(
    running: list[SequenceState],
    waiting: WaitingQueue,
    pool: PagePool,
    pace: Pace,
    *,
    max_batch_tokens: int,
    max_num_seqs: int,
) -> StepPlan:
    """Decide the next step. Moves sequences between `running` and `waiting`, hands out and takes back pages."""
    plan = StepPlan()
    _make_room(running, waiting, pool, plan)
    budget = _grow_running(running, plan, max_batch_tokens, pace)
    if not plan.preemptions:
        _admit_waiting(running, waiting, pool, plan, pace, budget, max_num_seqs)
    return plan


def _make_room(running: list[SequenceState], waiting: WaitingQueue, pool: PagePool, plan: StepPlan) -> None:
    for seq in [seq for seq in running if len(seq.tokens) > seq.capacity]:
        while seq.status is SequenceStatus.RUNNING and not pool.grow(seq):
            victim = min((seq for seq in running if not seq.request.hold), key=_loss_if_preempted)
            running.remove(victim)
            pool.release(victim)
            pool.foresee(victim)
            waiting.push(victim)
            plan.preemptions += 1


def _loss_if_preempted(seq: SequenceState) -> tuple[int, int, float]:
    deadline = seq.request.deadline
    return -seq.request.priority, seq.num_computed, -(deadline if deadline is not None else float("inf"))


def _grow_running(running: list[SequenceState], plan: StepPlan, budget: int, pace: Pace) -> int:
    prefilling, limits = [], set()
    rows = plan.rows
    context_tokens = 0
    for seq in running:
        length = len(seq.tokens)
        if seq.num_computed == length - 1:
            seq.num_scheduled = 1
            context_tokens += length
            rows.append(seq)
            if seq.itl_s is not None:
                limits.add(seq.itl_s)
        else:
            prefilling.append(seq)
    plan.decode_seqs = len(rows)
    plan.context_tokens = context_tokens
    before = prefilling[0].num_computed if prefilling else 0
    plan.limit_s, allowed = pace.allowance(limits, len(rows), context_tokens, before)
    budget = min(budget - len(rows), allowed)
    for seq in prefilling:
        if budget > 0:
            budget = plan.add_chunk(seq, budget, pace)
    return budget


def _admit_waiting(
    running: list[SequenceState],
    waiting: WaitingQueue,
    pool: PagePool,
    plan: StepPlan,
    pace: Pace,
    budget: int,
    max_num_seqs: int,
) -> None:
    while waiting and budget > 0 and len(running) < max_num_seqs:
        seq = waiting.first()
        if not pool.admit(seq, headroom=len(running)):
            return
        waiting.remove(seq)
        seq.status = SequenceStatus.RUNNING
        running.append(seq)
        plan.cached_tokens += seq.cached_tokens
        plan.admitted.append(seq.request.key)
        budget = plan.add_chunk(seq, budget, pace)
