"""The lifecycle in a simulated world whose bus loses, repeats, delays and reorders, and whose parts die."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.gateway_core import Faults, World

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _run(seed: int, faults: Faults, requests: int = 6) -> World:
    world = World(seed, faults)
    world.run(requests, until=300.0)
    world.check()
    return world


def test_without_faults_nothing_is_repaired() -> None:
    """On a good bus every request streams to its end in epoch 0 and nothing is dropped or asked for again."""
    world = _run(1, Faults(max_delay_s=0.0), requests=20)
    assert not world.core.counts
    assert {closed.outcome.epoch for closed in world.outcomes.values()} == {0}


@QUICK
@given(seed=st.integers(0, 10**6), loss=st.floats(0, 0.08), duplication=st.floats(0, 0.5), delay=st.floats(0, 0.2))
def test_a_faulty_bus_changes_no_stream(seed: int, loss: float, duplication: float, delay: float) -> None:
    """Whatever the bus loses, repeats, delays or reorders: each request ends once, with exactly the engine's tokens."""
    _run(seed, Faults(loss=loss, duplication=duplication, max_delay_s=delay))


@QUICK
@given(seed=st.integers(0, 10**6), loss=st.floats(0.1, 0.9), refusal=st.floats(0, 0.9))
def test_a_hopeless_bus_ends_each_request_with_a_typed_error_at_most(seed: int, loss: float, refusal: float) -> None:
    """When most messages are lost, each request still ends exactly once, and what was delivered is right."""
    world = World(seed, Faults(loss=loss, refusal=refusal, duplication=0.2))
    world.run(6, until=600.0)
    world.check(all_finish=False)


@QUICK
@given(seed=st.integers(0, 10**6), deaths=st.integers(1, 2), changes=st.integers(0, 2), refusal=st.floats(0, 0.2))
def test_engines_and_leaders_that_die_change_no_stream(seed: int, deaths: int, changes: int, refusal: float) -> None:
    """Engines die, refuse, leaders change: the streams continue on other engines with the same tokens."""
    faults = Faults(loss=0.02, duplication=0.1, refusal=refusal, engine_deaths=deaths, leader_changes=changes)
    _run(seed, faults)


@QUICK
@given(seed=st.integers(0, 10**6), failures=st.integers(1, 3), deaths=st.integers(0, 1))
def test_a_bus_that_goes_away_changes_no_stream(seed: int, failures: int, deaths: int) -> None:
    """The bus is away for up to 3 s several times, everything sent meanwhile is lost: the streams go on."""
    _run(seed, Faults(loss=0.02, bus_failures=failures, engine_deaths=deaths))


@pytest.mark.parametrize("seed", range(3))
def test_many_requests_through_all_faults_at_once(seed: int) -> None:
    """Two hundred requests survive everything together."""
    faults = Faults(0.05, 0.2, 0.05, 0.05, engine_deaths=1, leader_changes=1, bus_failures=1)
    _run(seed, faults, requests=200)
