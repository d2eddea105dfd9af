"""What the planner learns of what arrives."""

import random

import pytest

from sagellm_scheduler.planner.demand import BIN_S, FIRST_BURST, HOUR_S, Arrivals, MeanRequest


def _poisson(arrivals: Arrivals, per_s: float, begin: float, seconds: float, seed: int = 1, tokens: int = 100) -> None:
    chance, now = random.Random(seed), begin
    while (now := now + chance.expovariate(per_s)) < begin + seconds:
        arrivals.arrived(tokens, now)
    arrivals.pass_time(begin + seconds)


def test_the_rate_is_that_of_the_last_minutes() -> None:
    """Ten minutes at 2 a second after an hour at 10."""
    arrivals = Arrivals()
    _poisson(arrivals, 10.0, 0.0, HOUR_S)
    _poisson(arrivals, 2.0, HOUR_S, 600.0, seed=2)
    assert arrivals.rate() == pytest.approx(2.0, rel=0.1)
    assert arrivals.rate(4200.0) == pytest.approx((36_000 + 1200) / 4200.0, rel=0.2)


def test_hours_are_kept_and_a_short_first_one_is_not() -> None:
    """A planner that begins ten minutes before the hour does not take them for an hour."""
    arrivals = Arrivals()
    _poisson(arrivals, 5.0, 3000.0, 600.0)
    assert list(arrivals.hours) == []
    _poisson(arrivals, 3.0, HOUR_S, 2 * HOUR_S)
    assert list(arrivals.hours) == pytest.approx([3.0, 3.0], rel=0.05)


def test_an_hour_hardly_seen_is_taken_to_be_as_a_day_before() -> None:
    """A planner that comes back ten minutes before the hour: the season of a day stays in step."""
    arrivals = Arrivals([float(hour) for hour in range(1, 31)])
    _poisson(arrivals, 5.0, 3000.0, 600.0)
    assert list(arrivals.hours)[-2:] == [30.0, 7.0]


def test_hours_of_before_go_on() -> None:
    """What a former planner knew stays in front."""
    arrivals = Arrivals([7.0, 8.0])
    _poisson(arrivals, 3.0, 0.0, HOUR_S)
    assert list(arrivals.hours) == pytest.approx([7.0, 8.0, 3.0], rel=0.05)


def test_silence_counts() -> None:
    """An hour in which nothing came is an hour of zero, however long nobody asked."""
    arrivals = Arrivals()
    _poisson(arrivals, 3.0, 0.0, HOUR_S)
    arrivals.pass_time(3 * HOUR_S)
    assert list(arrivals.hours)[1:] == [0.0, 0.0]
    assert arrivals.rate() == 0.0


def test_steady_traffic_has_small_bursts_and_bursty_traffic_large_ones() -> None:
    """Poisson at 10 a second: hardly above the mean. Every fifth minute three times as much: that is seen."""
    steady, bursty = Arrivals(), Arrivals()
    _poisson(steady, 10.0, 0.0, HOUR_S)
    for minute in range(60):
        _poisson(bursty, 30.0 if minute % 5 == 0 else 5.0, 60.0 * minute, 60.0, seed=minute)
    assert 1.0 < steady.burst(1.0, 0.0) < 1.25
    assert bursty.burst(1.0, 0.0) > 2.0


def test_a_burst_of_long_prompts_is_a_burst() -> None:
    """Requests come evenly, but in one minute of six with ten times the tokens: only the weight of tokens shows it."""
    arrivals = Arrivals()
    for minute in range(60):
        _poisson(arrivals, 10.0, 60.0 * minute, 60.0, seed=minute, tokens=1000 if minute % 6 == 0 else 100)
    assert arrivals.burst(1.0, 0.0) < 1.3
    assert arrivals.burst(0.0, 1.0) > 2.0


def test_before_enough_is_known_a_burst_is_assumed() -> None:
    """Five minutes tell too little."""
    arrivals = Arrivals()
    _poisson(arrivals, 10.0, 0.0, 300.0)
    assert arrivals.burst(1.0, 1.0) == FIRST_BURST
    assert Arrivals().burst(1.0, 1.0) == FIRST_BURST


def test_rates_before_anything_came_are_zero() -> None:
    """Nothing seen, nothing expected."""
    arrivals = Arrivals()
    arrivals.pass_time(10 * BIN_S)
    assert arrivals.rate() == 0.0


def test_the_mean_request_is_learnt_and_follows() -> None:
    """The first requests count at once; a change is followed within some hundreds."""
    mean = MeanRequest()
    for _ in range(10):
        mean.observe(1000, 200, 50)
    assert mean.new == pytest.approx(800.0)
    assert mean.output == pytest.approx(50.0)
    assert mean.products == pytest.approx(800 * 600.0)
    for _ in range(1000):
        mean.observe(100, 0, 400)
    assert mean.new == pytest.approx(100.0, rel=0.1)
    assert mean.output == pytest.approx(400.0, rel=0.1)


def test_the_context_is_weighed_by_how_long_it_lasts() -> None:
    """Long answers are beside others for longer: the mean context is nearer to theirs."""
    mean, chance = MeanRequest(), random.Random(3)
    for _ in range(4000):
        mean.observe(*((100, 0, 1000) if chance.random() < 0.5 else (2000, 0, 10)))
    assert mean.context == pytest.approx((1000 * 600.0 + 10 * 2005.0) / 1010, rel=0.1)


def test_nine_of_ten_prompts_are_shorter_than_the_long_prompt() -> None:
    """A quantile that is learnt from one request at a time."""
    mean, chance = MeanRequest(), random.Random(4)
    for _ in range(4000):
        mean.observe(chance.randrange(1, 5000), 0, 10)
    assert mean.long_prompt == pytest.approx(4500.0, rel=0.1)
