"""The ledger in virtual time: what it holds, sends again, refuses and forgets."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from sagellm_common.contracts.frames import TokenItem
from sagellm_common.errors import Cancelled, DeadlineExceeded, InvalidArgument, NotFound, ResourceExhausted, SageError
from sagellm_engine.core.types import FinishReason, RequestKey, TokenLogprobs, TokenOutput
from sagellm_engine.service.ledger import KEEP_S, MAX_ENDED, Ledger

KEY: RequestKey = ("r", 0)


def _output(
    key: RequestKey = KEY,
    tokens: tuple[int, ...] = (),
    *,
    choice: int = 0,
    finish: FinishReason | None = None,
    error: SageError | None = None,
    cached: int = 0,
) -> TokenOutput:
    return TokenOutput(key, choice, 0, tokens, None, finish, error, "gw", cached)


def _ledger(*keys: RequestKey, max_open: int = 100) -> Ledger:
    ledger = Ledger(max_open)
    for key in keys:
        ledger.accept(key, "gw", {0: 0}, 0.0)
    return ledger


def _end(ledger: Ledger, key: RequestKey, now: float) -> None:
    ledger.record([_output(key, (9,), finish=FinishReason.STOP)], now)


def test_items_continue_where_the_choice_is() -> None:
    """Items of a choice carry contiguous indexes that begin behind what was delivered before."""
    ledger = Ledger(10)
    ledger.accept(KEY, "gw", {0: 5, 2: 0}, 0.0)
    items = [
        item
        for step in ((1,), (2, 3), (4,))
        for item in ledger.record([_output(tokens=step), _output(tokens=step, choice=2)], 0.0).items["gw"]
    ]
    assert [item.first_index for item in items if item.choice == 0] == [5, 6, 8]
    assert [item.first_index for item in items if item.choice == 2] == [0, 1, 3]


def test_each_gateway_gets_its_own_items() -> None:
    """Outputs of one step are sorted by the gateway that owns the request."""
    ledger = Ledger(10)
    ledger.accept(("a", 0), "gw1", {0: 0}, 0.0)
    ledger.accept(("b", 0), "gw2", {0: 0}, 0.0)
    items = ledger.record([_output(("a", 0), (1,)), _output(("b", 0), (2,))], 0.0).items
    assert {gateway: [item.request_id for item in found] for gateway, found in items.items()} == {
        "gw1": ["a"],
        "gw2": ["b"],
    }


def test_outputs_of_what_is_not_held_are_dropped() -> None:
    """Neither an unknown request nor another epoch of a known one reaches a gateway."""
    ledger = _ledger(("r", 1))
    assert ledger.record([_output(("r", 0), (1,)), _output(("x", 0), (1,))], 0.0).items == {}


def test_an_error_travels_with_the_end() -> None:
    """A failed request ends with finish `error` and the wire form of the error, in the frame and in a resend."""
    ledger = _ledger(KEY)
    error = DeadlineExceeded("too late")
    recorded = ledger.record([_output(finish=FinishReason.ERROR, error=error)], 0.0)
    item = recorded.items["gw"][0]
    assert (item.finish, item.error) == ("error", error.to_dict())
    assert [entry.key for entry in recorded.ended] == [KEY]
    assert recorded.started == []
    assert ledger.resend(KEY, 0, 0) == item


def test_nothing_follows_an_end() -> None:
    """Outputs behind the end of a choice are dropped."""
    ledger = _ledger(KEY)
    _end(ledger, KEY, 0.0)
    assert ledger.record([_output(tokens=(1,))], 0.0).items == {}


def test_a_resend_repeats_tokens_logprobs_and_end() -> None:
    """From any index on, a resend says what the frames said."""
    ledger = _ledger(KEY)
    for token in range(4):
        logprobs = (TokenLogprobs(-float(token), ((token, -0.5),)),)
        ledger.record([TokenOutput(KEY, 0, token, (token,), logprobs, None, None, "gw", 3 if token == 0 else 0)], 0.0)
    item = ledger.resend(KEY, 0, 2)
    assert item == TokenItem(
        "r", 0, 0, 2, [2, 3], [[-2.0, ((2, -0.5),)], [-3.0, ((3, -0.5),)]], None, None, cached_tokens=3
    )
    ledger.record([_output(finish=FinishReason.LENGTH)], 0.0)
    assert ledger.resend(KEY, 0, 4).finish == "length"


@pytest.mark.parametrize("index", [-1, 0, 1, 5])
def test_a_resend_of_another_epochs_index_is_refused(index: int) -> None:
    """Indexes before the epoch's first and behind its next are invalid."""
    ledger = Ledger(10)
    ledger.accept(KEY, "gw", {0: 2}, 0.0)
    ledger.record([_output(tokens=(1, 2))], 0.0)
    assert ledger.resend(KEY, 0, 4).token_ids == []
    with pytest.raises(InvalidArgument):
        ledger.resend(KEY, 0, index)


def test_a_request_is_forgotten_by_ack_or_by_time() -> None:
    """An ended request is held until it is acknowledged, or KEEP_S after its end."""
    ledger = _ledger(("a", 0), ("b", 0), ("c", 0))
    _end(ledger, ("a", 0), 1.0)
    _end(ledger, ("b", 0), 2.0)
    ledger.ack([("a", 0)], 3.0)
    ledger.expire(2.0 + KEEP_S - 0.01)
    assert ledger.resend(("b", 0), 0, 0).token_ids == [9]
    ledger.expire(2.0 + KEEP_S)
    assert len(ledger) == ledger.num_open == 1
    for key in (("a", 0), ("b", 0)):
        with pytest.raises(NotFound):
            ledger.resend(key, 0, 0)


def test_an_ack_before_the_end_forgets_at_the_end() -> None:
    """A gateway that acknowledges early gets the end once, and nothing is held."""
    ledger = _ledger(KEY)
    ledger.ack([KEY], 0.0)
    assert ledger.num_open == 1
    _end(ledger, KEY, 0.0)
    assert len(ledger) == 0


def test_a_dispatch_is_known_until_it_is_forgotten() -> None:
    """The same key is a duplicate while held and KEEP_S after it was dropped."""
    ledger = _ledger(KEY)
    assert not ledger.check(KEY, 0.0)
    _end(ledger, KEY, 1.0)
    assert not ledger.check(KEY, 1.0)
    ledger.ack([KEY], 2.0)
    assert not ledger.check(KEY, 2.0 + KEEP_S - 0.01)
    assert ledger.check(KEY, 2.0 + KEEP_S)


def test_an_older_epoch_is_refused_and_a_newer_one_replaces() -> None:
    """At most one epoch of a request is held, the newest."""
    ledger = _ledger(("r", 3))
    with pytest.raises(Cancelled):
        ledger.check(("r", 2), 0.0)
    assert ledger.check(("r", 4), 0.0)
    ledger.accept(("r", 4), "gw", {0: 0}, 0.0)
    assert (len(ledger), ledger.num_open_choices) == (1, 1)
    assert ledger.entry(("r", 3)) is None
    with pytest.raises(Cancelled):
        ledger.check(("r", 3), 0.0)


def test_a_cancel_may_come_first() -> None:
    """A cancelled (request, epoch) is refused for KEEP_S; other epochs are not."""
    ledger = Ledger(10)
    assert ledger.cancel("r", 0, 0.0) is None
    with pytest.raises(Cancelled):
        ledger.check(("r", 0), KEEP_S - 0.01)
    assert ledger.check(("r", 1), 1.0)
    assert ledger.check(("r", 0), KEEP_S)


def test_a_cancelled_request_is_not_held_beyond_its_end() -> None:
    """Whoever cancels wants no repair: the end is sent once and forgotten."""
    ledger = _ledger(KEY)
    assert ledger.cancel("r", None, 0.0) == KEY
    items = ledger.record([_output(finish=FinishReason.CANCELLED)], 0.0).items["gw"]
    assert items[0].finish == "cancelled"
    assert len(ledger) == 0


def test_a_full_ledger_refuses() -> None:
    """The open choices are limited; ended ones do not count."""
    ledger = Ledger(2)
    ledger.accept(("a", 0), "gw", {0: 0, 1: 0}, 0.0)
    with pytest.raises(ResourceExhausted):
        ledger.accept(("b", 0), "gw", {0: 0}, 0.0)
    ledger.record([_output(("a", 0), finish=FinishReason.STOP)], 0.0)
    ledger.accept(("b", 0), "gw", {0: 0}, 0.0)


def test_ended_requests_are_limited_too() -> None:
    """Gateways that never acknowledge cannot fill the memory: the oldest ends go."""
    ledger = Ledger(MAX_ENDED + 10)
    for number in range(MAX_ENDED + 10):
        key = (f"r{number}", 0)
        ledger.accept(key, "gw", {0: 0}, 0.0)
        _end(ledger, key, 0.0)
    ledger.expire(0.0)
    assert len(ledger) == MAX_ENDED
    assert ledger.entry(("r9", 0)) is None
    assert ledger.entry(("r10", 0)) is not None


REQUESTS = st.sampled_from(["a", "b", "c"])
EPOCHS = st.integers(0, 2)


class AnyOrder(RuleBasedStateMachine):
    """An engine and a gateway over a bus that loses, repeats and reorders; the core behaves as the real one does."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(3)
        self.now = 0.0
        self.computing: dict[RequestKey, list[int]] = {}
        self.truth: dict[RequestKey, list[int]] = {}
        self.received: dict[RequestKey, list[int]] = {}
        self.computed: set[RequestKey] = set()
        self.cancelled_at: dict[tuple[str, int | None], float] = {}

    @rule(request=REQUESTS, epoch=EPOCHS)
    def dispatch(self, request: str, epoch: int) -> None:
        key = (request, epoch)
        try:
            if not self.ledger.check(key, self.now):
                assert key in self.computed
                return
            self.ledger.accept(key, "gw", {0: 0}, self.now)
        except (Cancelled, ResourceExhausted):
            return
        cancelled = [self.cancelled_at.get((request, which), -KEEP_S) for which in (epoch, None)]
        assert all(self.now >= at + KEEP_S for at in cancelled)
        for older in [k for k in self.computing if k[0] == request]:
            assert older[1] < epoch or older == key
            del self.computing[older]
        self.computing[key], self.truth[key] = [], []
        self.received[key] = []
        self.computed.add(key)

    @precondition(lambda self: self.computing)
    @rule(data=st.data(), lost=st.booleans(), end=st.booleans())
    def step(self, data: st.DataObject, lost: bool, end: bool) -> None:
        key = data.draw(st.sampled_from(sorted(self.computing)))
        truth = self.truth[key]
        truth.append(len(truth))
        finish = FinishReason.STOP if end else None
        recorded = self.ledger.record([_output(key, (truth[-1],), finish=finish)], self.now)
        if end:
            del self.computing[key]
        if not lost:
            for item in recorded.items.get("gw", []):
                self._take(item)

    def _take(self, item: TokenItem) -> None:
        have = self.received[item.request_id, item.epoch]
        skip = len(have) - item.first_index
        if skip >= 0:
            have += item.token_ids[skip:]

    @rule(request=REQUESTS, epoch=EPOCHS)
    def resend(self, request: str, epoch: int) -> None:
        key = (request, epoch)
        if self.ledger.entry(key) is None:
            with pytest.raises(NotFound):
                self.ledger.resend(key, 0, 0)
            return
        self._take(self.ledger.resend(key, 0, len(self.received[key])))
        assert self.received[key] == self.truth[key]

    @rule(request=REQUESTS, epoch=st.one_of(EPOCHS, st.none()))
    def cancel(self, request: str, epoch: int | None) -> None:
        key = self.ledger.cancel(request, epoch, self.now)
        self.cancelled_at[request, epoch] = self.now
        assert (key in self.computing) if key is not None else True
        if key is not None:
            del self.computing[key]
            self.ledger.record([_output(key, finish=FinishReason.CANCELLED)], self.now)
            assert self.ledger.entry(key) is None

    @rule(request=REQUESTS, epoch=EPOCHS)
    def ack(self, request: str, epoch: int) -> None:
        self.ledger.ack([(request, epoch)], self.now)
        entry = self.ledger.entry((request, epoch))
        assert entry is None or entry.num_open

    @rule(seconds=st.floats(0.0, KEEP_S))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.ledger.expire(self.now)

    @invariant()
    def it_adds_up(self) -> None:
        """What computes is held, what is received is a beginning of the truth, and counts agree."""
        assert self.ledger.num_open == self.ledger.num_open_choices == len(self.computing)
        assert all(self.ledger.entry(key) is not None for key in self.computing)
        for key, have in self.received.items():
            assert have == self.truth[key][: len(have)]
        assert {progress.request_id for _, progress in self.ledger.progress()} >= {key[0] for key in self.computing}


def test_any_order_of_dispatch_cancel_ack_and_resend_adds_up() -> None:
    """Whatever is lost, repeated or reordered, tokens are contiguous, repairable, and nothing leaks."""
    run_state_machine_as_test(AnyOrder, settings=settings(max_examples=60, stateful_step_count=40, deadline=None))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=20), st.integers(0, 80))
def test_a_resend_from_any_index_is_the_rest(sizes: list[int], index: int) -> None:
    """A resend from i is everything from i on, however the tokens came."""
    ledger = _ledger(KEY)
    total = sum(sizes)
    made = iter(range(total))
    for size in sizes:
        ledger.record([_output(tokens=tuple(next(made) for _ in range(size)))], 0.0)
    index = min(index, total)
    assert ledger.resend(KEY, 0, index).token_ids == list(range(index, total))
