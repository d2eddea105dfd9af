"""The engine's core: takes requests, computes steps, hands out tokens. Plain and synchronous, for one thread."""

import time
from collections.abc import Callable, Sequence

from sagellm_common.errors import Cancelled, DeadlineExceeded, Internal, ResourceExhausted, SageError
from sagellm_engine.batching.pace import UNBOUNDED, Pace
from sagellm_engine.batching.policy import StepPlan, plan_step
from sagellm_engine.batching.queue import WaitingQueue
from sagellm_engine.core.config import EngineConfig
from sagellm_engine.core.deadlines import Deadlines
from sagellm_engine.core.isolation import execute_isolated
from sagellm_engine.core.requests import Known, OpenRequest, RequestTable
from sagellm_engine.core.runner import Runner, StepResult
from sagellm_engine.core.sequence import SequenceState, SequenceStatus
from sagellm_engine.core.types import (
    CacheChanges,
    EngineGauges,
    EngineRequest,
    FinishReason,
    FirstToken,
    Held,
    ModelInfo,
    RequestKey,
    StepOutput,
    StepReport,
    TokenLogprobs,
    TokenOutput,
)
from sagellm_engine.core.validation import validate_request
from sagellm_engine.kv.pool import PAGE_SIZE, PagePool, Reserved


class EngineCore:
    """Owns requests, sequences and pages; borrows the runner until `close`.

    All methods are called from one thread. `now` is in seconds on any monotonic clock, the same in every call.
    Between two steps every page is free, cached, held by a sequence that runs, held for another engine to read, or
    reserved for what is read from another engine.

    `on_held` is called with each request with `hold` as soon as it has its pages, before they are computed.
    """

    def __init__(self, config: EngineConfig, runner: Runner, *, clock: Callable[[], float] = time.perf_counter) -> None:
        """Set up an idle engine. `clock` measures the duration of steps."""
        self.config = config
        self._runner = runner
        self._clock = clock
        self._max_batch_tokens = config.max_batch_tokens or max(runner.max_batch_tokens, config.max_num_seqs)
        self._pool = PagePool(runner.info.num_pages, prefix_cache=config.prefix_cache)
        self._running: list[SequenceState] = []
        self._waiting = WaitingQueue()
        self._requests = RequestTable()
        self._deadlines = Deadlines()
        self._pending: list[TokenOutput] = []
        self._held: dict[RequestKey, SequenceState] = {}
        self._progress: list[Held] = []
        self._num_submitted = 0
        self._limit_s = UNBOUNDED
        self.pace = Pace()
        self.on_held: Callable[[Held], None] = lambda held: None

    @property
    def info(self) -> ModelInfo:
        """The model that is served."""
        return self._runner.info

    @property
    def runner(self) -> Runner:
        """What computes; borrowed."""
        return self._runner

    @property
    def max_batch_tokens(self) -> int:
        """The token budget of a step."""
        return self._max_batch_tokens

    def submit(self, request: EngineRequest, now: float) -> bool:
        """Take a request; False if its key is open or has ended already, or a newer epoch of it is open.

        A newer epoch replaces an open older one without a word. Raises InvalidArgument for what cannot be computed,
        Cancelled when the cancel came first, DeadlineExceeded when it is too late, ResourceExhausted when too many
        requests wait beside those for which places are free.
        """
        if not self._is_news(request, now):
            return False
        if len(self._waiting) >= self.config.max_waiting + self._num_free_places():
            raise ResourceExhausted(f"{len(self._waiting)} sequences wait already")
        sequences = self._open(request, now)
        if sequences:
            self._wait(sequences[0])
        return True

    def release_held(self, key: RequestKey, now: float) -> None:
        """Free the pages of a request with `hold`, and stop computing it if that is not over; nothing comes of it."""
        seq = self._held.pop(key, None)
        if seq is not None:
            self._pool.release(seq)
        elif self._requests.get(key) is not None:
            self._drop(key, now, Known.ENDED)

    def reserve(self, tokens: Sequence[int], unit: int = PAGE_SIZE) -> Reserved | None:
        """Set pages for tokens apart, and a place among the running sequences; None if there is no room.

        What is known of them is taken from the prefix cache, a multiple of `unit` tokens.
        """
        if not self._num_free_places():
            return None
        return self._pool.reserve(tokens, len(self._running), unit)

    def free_reserved(self, pages: tuple[int, ...]) -> None:
        """Give reserved pages back, into which nothing is written any more."""
        self._pool.free_reserved(pages)

    def adopt(self, request: EngineRequest, pages: tuple[int, ...], first: FirstToken, now: float) -> bool:
        """Go on behind a prompt whose keys and values have been written into reserved `pages`, and with its `first`
        token; the pages are the request's from now on. See `submit` for what is returned and raised.
        """
        try:
            sequences = self._open(request, now) if self._is_news(request, now) else []
        except SageError:
            self._pool.free_reserved(pages)
            raise
        if not sequences:
            self._pool.free_reserved(pages)
            return False
        seq = sequences[0]
        self._pool.adopt(seq, pages)
        self._running.append(seq)
        self._append(seq, first.token_id, first.logprobs, now)
        return True

    def take_outputs(self) -> list[TokenOutput]:
        """Return the outputs that are there without a step, such as the first token of what was adopted."""
        outputs, self._pending = self._pending, []
        return outputs

    def cancel(self, key: RequestKey, now: float) -> bool:
        """End a request and free its pages at once; False if it is not open.

        Its choices' last outputs come with the next step. An unknown key is remembered for 60 s, so that its request
        is refused should it come later.
        """
        entry = self._requests.get(key)
        if entry is None:
            if self._requests.known(key, now) is Known.NO:
                self._requests.end(key, now, Known.CANCELLED)
            return False
        for seq in entry.sequences:
            self._pending.append(self._last_output(seq, FinishReason.CANCELLED))
        self._drop(key, now, Known.CANCELLED)
        return True

    def has_work(self) -> bool:
        """Return whether a step would do anything."""
        return bool(self._running or self._pending or self._waiting)

    def step(self, now: float) -> StepOutput:
        """Compute one step and return what it made. Faults of single requests are among the outputs; never raises."""
        for key in self._deadlines.pop_expired(now):
            self._fail(key, DeadlineExceeded("the deadline was over before the last token"), now)
        start = self._clock()
        plan = plan_step(
            self._running,
            self._waiting,
            self._pool,
            self.pace,
            max_batch_tokens=self._max_batch_tokens,
            max_num_seqs=self.config.max_num_seqs - self._pool.num_reservations,
        )
        for key in plan.admitted:
            self._tell_held(key)
        if plan.rows:
            result = execute_isolated(self._runner, plan.rows)
            self._commit(plan.rows, result, now)
        tokens, self._pending = self._pending, []
        held, self._progress = self._progress, []
        self._limit_s = plan.limit_s
        report = _report(plan, self._clock() - start)
        self.pace.observe(report)
        return StepOutput(tokens, report, plan.admitted, held)

    def gauges(self) -> EngineGauges:
        """Return the state between two steps."""
        left = [left for seq in self._running if (left := len(seq.tokens) - seq.num_computed) > 1 or not seq.num_output]
        leaving = [seq for seq in self._running if seq.request.hold] + self._waiting.leaving()
        return EngineGauges(
            pages_total=self._pool.num_pages,
            pages_free=self._pool.num_free,
            pages_cached=self._pool.num_cached,
            waiting=len(self._waiting),
            running=len(self._running),
            waiting_tokens=self._waiting.num_tokens(),
            running_tokens=sum(len(seq.tokens) for seq in self._running),
            prefilling=len(left),
            prefill_tokens=sum(left) + self._waiting.num_new_tokens(),
            itl_limit_s=0.0 if self._limit_s == UNBOUNDED else self._limit_s,
            leaving=len(leaving),
            leaving_tokens=sum(len(seq.tokens) for seq in leaving),
        )

    def take_cache_changes(self) -> CacheChanges | None:
        """Return how the prefix cache has changed since the last call, None if it has not."""
        return self._pool.take_changes()

    def check_invariants(self) -> None:
        """Prove that every page is accounted for; raises Internal with the figures if not. To be called when idle."""
        self._pool.check([*self._running, *self._held.values()])
        if not self.has_work() and len(self._requests):
            raise Internal(f"requests {self._requests.keys()[:8]} are open, but nothing works on them")

    def close(self) -> None:
        """Give back the runner's memory. Open requests get no further output."""
        self._runner.close()

    def _is_news(self, request: EngineRequest, now: float) -> bool:
        """Whether a request is to be opened; an open older epoch is gone then. See `submit` for what is raised."""
        known = self._requests.known(request.key, now)
        if known is Known.CANCELLED:
            raise Cancelled("this request was cancelled before it arrived")
        if known is not Known.NO:
            return False
        validate_request(request, self.info)
        if request.deadline is not None and request.deadline <= now:
            raise DeadlineExceeded("the deadline was over before the engine got the request")
        older = self._requests.older_epoch(request.key)
        if older is not None:
            self._drop(older, now, Known.ENDED)
        return True

    def _num_free_places(self) -> int:
        return max(0, self.config.max_num_seqs - self._pool.num_reservations - len(self._running))

    def _open(self, request: EngineRequest, now: float) -> list[SequenceState]:
        """Add a request and return its sequences that have not ended with what was delivered of them before."""
        info, sampling = self.info, request.sampling
        stop_ids = frozenset(sampling.stop_token_ids) | (frozenset() if sampling.ignore_eos else info.eos_token_ids)
        sequences = []
        for choice in range(request.num_choices):
            if choice in request.finished_choices:
                continue
            self._num_submitted += 1
            sequences.append(
                SequenceState(
                    request, choice, stop_ids=stop_ids, max_model_len=info.max_model_len, order=self._num_submitted
                )
            )
        self._requests.open(OpenRequest(request, sequences))
        if request.deadline is not None:
            self._deadlines.add(request.deadline, request.key)
        for seq in list(sequences):
            finish = _finish_reason(seq) if seq.num_output else None
            if finish is not None:
                self._finish(seq, self._last_output(seq, finish), now)
        if not sequences:
            self._requests.end(request.key, now)
        return sequences

    def _commit(self, rows: list[SequenceState], result: StepResult, now: float) -> None:
        token_ids, errors = result.token_ids, result.errors
        for row, seq in enumerate(rows):
            if errors and row in errors:
                self._fail_row(seq, errors[row], now)
                continue
            if seq.status is not SequenceStatus.RUNNING:
                continue  # another choice of its request has failed
            tokens = seq.tokens
            seq.num_computed += seq.num_scheduled
            if seq.num_computed % PAGE_SIZE == 0 or seq.num_scheduled > 1:
                self._pool.index_computed(seq)
            if seq.request.hold:
                self._hold(seq, FirstToken(token_ids[row], result.logprobs.get(row)), now)
            elif seq.num_computed == len(tokens):
                self._append(seq, token_ids[row], result.logprobs.get(row), now)

    def _append(self, seq: SequenceState, token: int, logprobs: TokenLogprobs | None, now: float) -> None:
        tokens = seq.tokens
        tokens.append(token)
        finish = None
        if len(tokens) >= seq.token_limit or token in seq.stop_ids:
            finish = _finish_reason(seq)
        output = self._output(seq, token, logprobs, finish)
        if finish is None:
            self._pending.append(output)
        else:
            self._finish(seq, output, now)

    def _tell_held(self, key: RequestKey) -> None:
        entry = self._requests.get(key)
        if entry is not None and entry.request.hold:
            seq = entry.sequences[0]
            self.on_held(Held(key, tuple(seq.pages), seq.num_computed // PAGE_SIZE))

    def _hold(self, seq: SequenceState, first: FirstToken, now: float) -> None:
        """Note how far a prefill for another engine is; keep its pages when it is complete."""
        key, pages = seq.request.key, tuple(seq.pages)
        if seq.num_computed < len(seq.tokens):
            self._progress.append(Held(key, pages, seq.num_computed // PAGE_SIZE))
            return
        self._progress.append(Held(key, pages, len(pages), first))
        self._running.remove(seq)
        seq.status = SequenceStatus.FINISHED
        self._held[key] = seq
        self._requests.end(key, now)

    def _output(
        self, seq: SequenceState, token: int, logprobs: TokenLogprobs | None, finish: FinishReason | None
    ) -> TokenOutput:
        cached = 0
        if seq.first_unsent:
            seq.first_unsent = False
            cached = min(seq.cached_tokens, seq.num_prompt)
            self._let_siblings_go(seq)
        request = seq.request
        return TokenOutput(
            request.key,
            seq.choice,
            len(seq.tokens) - seq.num_prompt - 1,
            (token,),
            None if logprobs is None else (logprobs,),
            finish,
            None,
            request.group,
            cached,
        )

    def _let_siblings_go(self, seq: SequenceState) -> None:
        """Admit the other choices once the first has prefilled: they find the prompt in the prefix cache."""
        entry = self._requests.get(seq.request.key)
        for sibling in entry.sequences if entry is not None else ():
            if sibling.status is SequenceStatus.HELD:
                self._wait(sibling)

    def _wait(self, seq: SequenceState) -> None:
        self._pool.foresee(seq)
        self._waiting.push(seq)

    def _last_output(self, seq: SequenceState, finish: FinishReason, error: SageError | None = None) -> TokenOutput:
        return TokenOutput(seq.request.key, seq.choice, seq.num_output, (), None, finish, error, seq.request.group, 0)

    def _finish(self, seq: SequenceState, output: TokenOutput, now: float) -> None:
        self._pending.append(output)
        self._retire(seq)
        entry = self._requests.get(seq.request.key)
        if entry is not None:
            entry.sequences.remove(seq)
            if not entry.sequences:
                self._requests.end(seq.request.key, now)

    def _fail_row(self, seq: SequenceState, error: SageError, now: float) -> None:
        """Fail a request for what one of its rows did, and trust none of the pages that the row touched."""
        pages = list(seq.pages)
        self._pool.forget(pages)
        self._fail(seq.request.key, error, now)
        self._runner.clear_pages(page for page in pages if not self._pool.is_held(page))

    def _fail(self, key: RequestKey, error: SageError, now: float) -> None:
        entry = self._requests.get(key)
        if entry is not None:
            for seq in entry.sequences:
                self._pending.append(self._last_output(seq, FinishReason.ERROR, error))
            self._drop(key, now, Known.ENDED)

    def _drop(self, key: RequestKey, now: float, how: Known) -> None:
        entry = self._requests.get(key)
        for seq in entry.sequences if entry is not None else ():
            self._retire(seq)
        self._requests.end(key, now, how)

    def _retire(self, seq: SequenceState) -> None:
        if seq.status is SequenceStatus.RUNNING:
            self._running.remove(seq)
            self._pool.release(seq)
        elif seq.status is SequenceStatus.WAITING:
            self._waiting.remove(seq)
        seq.status = SequenceStatus.FINISHED


def _finish_reason(seq: SequenceState) -> FinishReason | None:
    """Return why a sequence ends with its last token, if it does."""
    if seq.tokens[-1] in seq.stop_ids and seq.num_output >= seq.sampling.min_tokens:
        return FinishReason.STOP
    return FinishReason.LENGTH if len(seq.tokens) >= seq.token_limit else None


def _report(plan: StepPlan, duration_s: float) -> StepReport:
    return StepReport(
        duration_s=duration_s,
        rows=plan.prefill_tokens + plan.decode_seqs,
        prefill_tokens=plan.prefill_tokens,
        decode_seqs=plan.decode_seqs,
        context_tokens=plan.context_tokens,
        chunk_x_context=plan.chunk_x_context,
        cached_tokens=plan.cached_tokens,
        preemptions=plan.preemptions,
    )
