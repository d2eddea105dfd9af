"""A simulated engine on the bus: takes dispatches, makes frames and reports, and may die."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from typing import Protocol

from sagellm_common.contracts.base import LeaderEpoch
from sagellm_common.contracts.dispatch import Dispatch
from sagellm_common.contracts.engines import EngineRegistration
from sagellm_common.contracts.frames import TokenItem
from sagellm_common.contracts.kv import KvEvents, SnapshotReply
from sagellm_common.contracts.reports import EngineReport, Gauges, Progress, StepSample
from sagellm_engine.batching.pace import UNBOUNDED
from sagellm_engine.transfer.lease import Message
from sagellm_simulation.batching import Batcher, Step
from sagellm_simulation.handoff import Key, SimHandoffs
from sagellm_simulation.kernel import Kernel
from sagellm_simulation.pages import Sequence
from sagellm_simulation.specs import PAGE_SIZE, EngineSpec
from sagellm_simulation.trace import TraceRequest

REPORT_S, SILENCE_S = 0.1, 2.0
BENCHMARK = ((0, 1), (0, 8), (0, 32), (16, 0), (256, 0), (1024, 0), (2048, 16))
"""Prefill tokens and decoding sequences of the steps that an engine has measured at its start."""


class Listener(Protocol):
    """What an engine publishes to."""

    def frame(self, engine: "SimEngine", gateway_id: str, items: list[TokenItem]) -> None:
        """Tokens for one gateway."""

    def report(self, engine: "SimEngine", report: EngineReport) -> None:
        """A report for everybody."""

    def cache(self, engine: "SimEngine", events: KvEvents) -> None:
        """Changes of the prefix cache."""

    def lease(self, engine: "SimEngine", to: str, message: Message) -> None:
        """A message of a hand-off, to another engine."""

    def lives(self, incarnation: str) -> bool:
        """Whether the life of an engine goes on."""


@dataclass(slots=True)
class _Run:
    """A step under way, to be made `times` times in a row."""

    step: Step
    times: int
    began: float
    number: int


class SimEngine:
    """Steps that only decode are made many at a time, until something happens; `jump` off makes them one by one."""

    def __init__(
        self,
        kernel: Kernel,
        engine_id: str,
        spec: EngineSpec,
        workload: dict[str, TraceRequest],
        listener: Listener,
        *,
        block: int,
        heartbeat_s: float,
        jump: bool = True,
        tells_progress: bool = False,
    ) -> None:
        self._kernel, self._workload, self._listener = kernel, workload, listener
        self.engine_id, self.spec, self._block, self._jump = engine_id, spec, block, jump
        self._heartbeat_s, self._tells_progress = heartbeat_s, tells_progress
        self._numbers, self._lives = count(1), count(1)
        self.busy_s = 0.0
        self.tokens_cached = self.tokens_prefilled = 0
        self.state = "ready"
        self._begin_life()
        kernel.after(heartbeat_s, self._heartbeat)

    def _begin_life(self) -> None:
        self.alive = True
        self.incarnation = f"{self.engine_id}-{next(self._lives)}"
        self.batch = Batcher(self.spec, self._block)
        for prefill, decode in 2 * BENCHMARK:
            step = Step(prefill, decode, 100 * decode, prefill * prefill)
            self.batch.observe(step, self.batch.seconds(step, 1))
        self._open: dict[tuple[str, int], Sequence] = {}
        self._kept: dict[tuple[str, int], Sequence] = {}
        self._run: _Run | None = None
        self._seen: tuple[LeaderEpoch, int] = ((0, 0), 0)
        self._samples: list[StepSample] = []
        self._reported_at = self._kernel.now
        self._orders = count()
        self._cache_number = 0
        self._doomed: list[tuple[str, int]] = []
        self._expected: dict[tuple[str, int], Sequence] = {}
        self._handing: dict[tuple[str, int], Sequence] = {}
        self._offered: set[tuple[str, int]] = set()
        self._adopted: list[Sequence] = []
        self.handoffs = SimHandoffs(
            self._kernel,
            self,
            self.incarnation,
            lambda to, message: self._listener.lease(self, to, message),
            self._listener.lives,
        )

    def registration(self, model: str) -> EngineRegistration:
        """Say what this engine is."""
        spec = self.spec
        return EngineRegistration(
            engine_id=self.engine_id,
            incarnation=self.incarnation,
            models=(model,),
            backend="simulated",
            kind=spec.kind,
            max_model_len=spec.max_model_len,
            page_size=PAGE_SIZE,
            num_pages=spec.num_pages,
            max_num_seqs=spec.max_num_seqs,
            max_batch_tokens=spec.max_batch_tokens,
            price_per_hour=spec.price_per_hour,
            heartbeat_s=self._heartbeat_s,
            benchmark=tuple((spec.seconds(p, d, 100 * d, p * p), p + d, p, d, 100 * d, p * p) for p, d in BENCHMARK),
            role=spec.role,
            handoff="simulated" if spec.kv_bytes_per_token else "",
            kv_bytes_per_token=spec.kv_bytes_per_token,
        )

    # what comes

    def dispatch(self, body: Dispatch, answer: Callable[[], None]) -> None:
        """Take a request; a known one is only answered."""
        if not self.alive or body.incarnation != self.incarnation:
            return
        self._seen = max(self._seen, (body.leader_epoch, body.assignment_number))
        key = (body.request_id, body.epoch)
        if body.decode_engine:
            if key not in self._handing and key not in self._offered:
                self._prefill_for(key, body)
        elif key not in self._open and key not in self._kept and key not in self._expected:
            self._admit(key, body)
        answer()

    def _prefill_for(self, key: Key, body: Dispatch) -> None:
        seq = self._handing[key] = self._made(key, body)
        seq.hand_to = body.decode_engine
        self.batch.submit(seq)
        self._disturb()

    def _admit(self, key: Key, body: Dispatch) -> None:
        seq = self._made(key, body)
        if body.prefill_engine:
            self._expected[key] = seq
            self.handoffs.expect(key)
        else:
            self._open[key] = seq
            self.batch.submit(seq)
            self._disturb()

    def _made(self, key: Key, body: Dispatch) -> Sequence:
        asked = self._workload[body.request_id]
        delivered = len(body.delivered[0]) if body.delivered else 0
        return Sequence(
            *key,
            gateway_id=body.gateway_id,
            priority=int(body.priority),
            arrival=self._kernel.now,
            order=next(self._orders),
            prompt=asked.prompt_tokens + delivered,
            length=asked.prompt_tokens + delivered,
            limit=asked.prompt_tokens + asked.output_tokens,
            first_index=delivered,
            blocks=asked.blocks,
            told=delivered,
            itl_s=None if body.itl_ms is None else body.itl_ms / 1e3,
        )

    def cancel(self, request_id: str, epoch: int | None = None) -> None:
        """Drop a request (None: all its epochs) after the step that is under way."""
        if not self.alive:
            return
        for key in [key for key in self._expected if key[0] == request_id and epoch in (None, key[1])]:
            del self._expected[key]
        self.handoffs.cancel(request_id, epoch)
        for waiting in (self._open, self._handing):
            self._doomed += [key for key in waiting if key[0] == request_id and epoch in (None, key[1])]
        if self._run is None:
            self._drop_doomed()
        else:
            self._disturb()

    def _drop_doomed(self) -> None:
        for key in self._doomed:
            for known in (self._open, self._handing):
                seq = known.pop(key, None)
                if seq is not None:
                    self.batch.remove(seq)
        self._doomed.clear()

    # hand-offs

    def release_held(self, key: Key) -> None:
        """Free a prompt's pages; if it is still computed, after the step that is under way."""
        seq = self._handing.get(key)
        if seq is None:
            return
        if self.batch.has(seq):
            self._doomed.append(key)
            self._disturb_or_drop()
        else:
            del self._handing[key]
            self.batch.remove(seq)
            self._disturb()

    def _disturb_or_drop(self) -> None:
        if self._run is None:
            self._drop_doomed()
        else:
            self._disturb()

    def reserve(self, num_pages: int) -> bool:
        """Set pages and a place apart for a prompt of another engine."""
        batch = self.batch
        if len(batch.running) + batch.num_reserved >= self.spec.max_num_seqs:
            return False
        if not batch.pages.reserve(num_pages, len(batch.running)):
            return False
        batch.num_reserved += 1
        return True

    def known_pages(self, key: Key) -> int:
        """Pages of an expected prompt that need not be read."""
        seq, pages = self._expected.get(key), self.batch.pages
        return 0 if seq is None else len(pages.prefix(seq)) * pages.block // PAGE_SIZE

    def free_reserved(self, num_pages: int) -> None:
        """Give a reservation back."""
        self.batch.pages.free_reserved(num_pages)
        self.batch.num_reserved -= 1
        self._disturb()

    def adopt(self, key: Key, num_pages: int, transfer_s: float) -> None:
        """Go on behind a prompt that has been read into reserved pages."""
        seq = self._expected.pop(key, None)
        if seq is None:
            self.free_reserved(num_pages)
            return
        self.batch.num_reserved -= 1
        self.batch.pages.adopt(seq, num_pages)
        seq.length, seq.transfer_ms = seq.length + 1, transfer_s * 1e3
        self._open[key] = seq
        self.batch.running.append(seq)
        self._adopted.append(seq)
        if self._run is None:
            self._tell_adopted()
        self._disturb()

    def _tell_adopted(self) -> None:
        """Tell the first tokens of what has come since the last step."""
        adopted, self._adopted = self._adopted, []
        self._tell([seq for seq in adopted if seq.key in self._open])

    def recompute(self, key: Key) -> None:
        """Prefill a request here that another engine was to prefill."""
        seq = self._expected.pop(key, None)
        if seq is not None:
            self._open[key] = seq
            self.batch.submit(seq)
            self._disturb()

    def ack(self, key: tuple[str, int]) -> None:
        """Forget a request's tokens: they have arrived."""
        self._kept.pop(key, None)

    def resend(self, key: tuple[str, int], first: int) -> TokenItem | None:
        """Return a request's tokens from an index on; None if it is not known."""
        seq = self._open.get(key) or self._kept.get(key)
        return None if not self.alive or seq is None else self._item(seq, first, is_last=key in self._kept)

    def die(self) -> None:
        """Lose everything, and be silent."""
        self.alive, self._run = False, None
        self.handoffs.is_over = True

    @property
    def num_open(self) -> int:
        """Requests that are not over."""
        return len(self._open) + len(self._expected) + len(self._handing)

    def change(self, state: str) -> None:
        """Become `draining`: take nothing more; or `ready` again."""
        self.state = state
        self._report()

    def retire(self) -> None:
        """End for good."""
        self.die()
        self.state = "stopped"

    def announce(self) -> None:
        """Report for the first time."""
        self._report()

    def restart(self) -> None:
        """Come back as a new incarnation that knows nothing."""
        self._begin_life()

    # steps

    def _disturb(self) -> None:
        """Something has come: begin, or end a long run after the step that is under way."""
        if self._run is None:
            self._begin()
        elif self._run.times > 1:
            self._shorten(self._run)

    def _begin(self) -> None:
        batch = self.batch
        step = batch.plan()
        if not step.rows:
            return
        self._offer()
        times = batch.repeats(step) if self._jump else 1
        while times > 1 and batch.seconds(step, times) > SILENCE_S:
            times //= 2
        self._start(_Run(step, times, self._kernel.now, next(self._numbers)))

    def _start(self, run: _Run) -> None:
        self._run = run
        self._kernel.at(run.began + self.batch.seconds(run.step, run.times), self._end, run.number)

    def _shorten(self, run: _Run) -> None:
        times = min(run.times, self._whole_steps(run) + 1)
        if times < run.times:
            self._start(_Run(run.step, times, run.began, next(self._numbers)))

    def _whole_steps(self, run: _Run) -> int:
        """How many repetitions are over now."""
        elapsed = self._kernel.now - run.began
        low, high = 0, run.times - 1
        while low < high:
            middle = (low + high + 1) // 2
            if self.batch.seconds(run.step, middle) <= elapsed:
                low = middle
            else:
                high = middle - 1
        return low

    def _end(self, number: int) -> None:
        run = self._run
        if run is None or run.number != number:
            return
        self._run = None
        self._finish(run)
        self._drop_doomed()
        self._tell_adopted()
        self._begin()
        if self._kernel.now - self._reported_at >= REPORT_S:
            self._report()

    def _finish(self, run: _Run) -> None:
        step, seconds = run.step, self.batch.seconds(run.step, run.times)
        self.busy_s += seconds
        self.tokens_prefilled += step.prefill
        self.tokens_cached += step.cached
        context = step.context + step.decode * (run.times - 1) // 2
        if self.batch.limit_s != UNBOUNDED:
            self.batch.observe(step, seconds / run.times)
        self._samples.append(
            StepSample(seconds / run.times, step.rows, step.prefill, step.decode, context, step.products, step.cached)
        )
        self._tell(self.batch.commit(run.times))
        self._tell_handoffs()
        self._tell_cache()

    def _offer(self) -> None:
        """Offer the pages of prompts that have just got them."""
        for key, seq in list(self._handing.items()):
            if key not in self._offered and seq in self.batch.running:
                self._offered.add(key)
                self.handoffs.begins(key, seq.length, seq.computed, seq.hand_to)

    def _tell_handoffs(self) -> None:
        for key, seq in list(self._handing.items()):
            if seq.scheduled and seq in self.batch.running:
                is_complete = seq.computed >= seq.length
                if is_complete:
                    self.batch.running.remove(seq)
                self.handoffs.progressed(key, seq.computed, is_complete=is_complete)

    def _tell(self, made: Iterable[Sequence]) -> None:
        now = self._kernel.now
        frames: dict[str, list[TokenItem]] = {}
        for seq in made:
            is_last = seq.length >= seq.limit
            if is_last or seq.told == seq.first_index or now - seq.told_at >= SILENCE_S:
                frames.setdefault(seq.gateway_id, []).append(self._item(seq, seq.told, is_last=is_last))
                seq.told, seq.told_at = seq.next_index, now
            if is_last:
                self.batch.finish(seq)
                self._kept[seq.key] = self._open.pop(seq.key)
        for gateway_id, items in frames.items():
            self._listener.frame(self, gateway_id, items)

    def _tell_cache(self) -> None:
        pages = self.batch.pages
        if pages.stored or pages.removed:
            self._cache_number += 1
            stored = [block for block in pages.stored if block in pages]
            removed = [block for block in pages.removed if block not in pages]
            pages.stored, pages.removed = [], []
            self._listener.cache(self, KvEvents(self.engine_id, self.incarnation, self._cache_number, stored, removed))

    def snapshot(self) -> SnapshotReply:
        """All blocks of the prefix cache that have been told."""
        blocks = [block for block in self.batch.pages if block not in self.batch.pages.stored]
        blocks += [block for block in self.batch.pages.removed if block not in self.batch.pages]
        return SnapshotReply(
            engine_id=self.engine_id, incarnation=self.incarnation, number=self._cache_number, blocks=blocks
        )

    def _item(self, seq: Sequence, first: int, *, is_last: bool) -> TokenItem:
        finish = "length" if is_last else None
        tokens = list(range(first, seq.next_index))
        item = TokenItem(*seq.key, 0, first, tokens, finish=finish, cached_tokens=seq.cached_tokens)
        item.transfer_ms = seq.transfer_ms
        return item

    # reports

    def _heartbeat(self) -> None:
        if self.state == "stopped":
            return
        if self.alive:
            self._report(self._progress() if self._tells_progress else None)
        self._kernel.after(self._heartbeat_s, self._heartbeat)

    def _report(self, progress: dict[str, list[Progress]] | None = None) -> None:
        self._reported_at = self._kernel.now
        samples, self._samples = self._samples, []
        leader_epoch, number = self._seen
        report = EngineReport(
            self.engine_id,
            self.incarnation,
            next(self._numbers),
            self._gauges(),
            list(leader_epoch),
            number,
            state=self.state,
            steps=samples,
            progress=progress or {},
            kv_number=self._cache_number,
        )
        self._listener.report(self, report)

    def _gauges(self) -> Gauges:
        batch, run = self.batch, self._run
        running = batch.running
        left = [left for seq in running if (left := seq.length - seq.computed) > 1 or seq.length == seq.prompt]
        leaving = [seq for seq in (*running, *batch.waiting) if seq.hand_to]
        grown = self._whole_steps(run) * run.step.decode if run is not None and run.times > 1 else 0
        return Gauges(
            batch.pages.total,
            batch.pages.free,
            batch.pages.cached,
            len(batch.waiting) + self.handoffs.num_expected,
            len(batch.running),
            sum(seq.length for seq in batch.waiting),
            sum(seq.length for seq in batch.running) + grown,
            1.0 if run is not None else 0.0,
            len(left),
            sum(left) + sum(seq.length - seq.foreseen for seq in batch.waiting),
            0.0 if batch.limit_s == UNBOUNDED else batch.limit_s,
            len(leaving),
            sum(seq.length for seq in leaving),
            self.handoffs.num_expected,
        )

    def _progress(self) -> dict[str, list[Progress]]:
        progress: dict[str, list[Progress]] = {}
        for known, final in ((self._open, False), (self._kept, True)):
            for seq in known.values():
                entry = Progress(seq.request_id, seq.epoch, 0, seq.told, final)
                progress.setdefault(seq.gateway_id, []).append(entry)
        return progress
