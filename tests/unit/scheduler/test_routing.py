"""Routers: which engine they choose, and that the core asks them."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from sagellm_common.contracts.scheduling import Submit
from sagellm_common.errors import InvalidArgument
from sagellm_scheduler.core import events
from sagellm_scheduler.routing.affinity import Affinity
from sagellm_scheduler.routing.locality import Locality
from sagellm_scheduler.routing.random_choice import RandomChoice
from sagellm_scheduler.routing.rendezvous import stable_hash
from sagellm_scheduler.routing.router import ROUTERS, Candidates, Choice
from support.scheduling import Driver, submit


def candidates(names: Sequence[str], load: Sequence[float] | None = None) -> Candidates:
    return Candidates(
        list(names),
        np.array(load if load is not None else [0.0] * len(names)),
        np.arange(len(names), dtype=np.int64),
        np.array([stable_hash(name) for name in names], np.uint64),
        *(np.zeros(len(names)) for _ in range(5)),
    )


def chosen_by(router: object, names: Sequence[str], request: Submit) -> str:
    choice: Choice = router.choose(request, candidates(names))  # type: ignore[attr-defined]  # any router
    return names[choice.index]


def fleet(driver: Driver, *names: str, slots: int = 8) -> None:
    for name in names:
        driver.engine(name, max_num_seqs=slots)


@pytest.mark.acceptance(95)
def test_load_balanced_considers_load() -> None:
    """The engine with the smaller share of slots and KV memory in use is chosen."""
    driver = Driver.leading()
    fleet(driver, "a", "b", "c")
    driver.report("a", running=4)
    driver.report("b", running=1, used_pages=900)
    driver.report("c", running=2)
    driver.submit("r1")
    assert driver.assignments[0].engine_id == "c"


@pytest.mark.acceptance(95)
@pytest.mark.parametrize("fault", ["draining", "silent", "unregistered", "never heard of"])
def test_load_balanced_considers_health(fault: str) -> None:
    """An idle engine that drains, is silent, is no longer registered or was never heard of gets nothing."""
    driver = Driver.leading()
    driver.engine("busy", max_num_seqs=8)
    driver.engine("ill", reports=fault != "never heard of", max_num_seqs=8)
    driver.report("busy", running=6)
    if fault == "draining":
        driver.report("ill", state="draining")
    elif fault == "silent":
        driver.wait(2.5, alive=("busy",))
    elif fault == "unregistered":
        driver.feed(events.EngineGone("ill"))
    driver.submit("r1")
    assert driver.assignments[0].engine_id == "busy"
    (record,) = [publish.record for publish in driver.records]
    excluded = {c.engine_id: c.excluded for c in record.decisions[0].candidates if c.excluded}
    assert set(excluded) == {"ill"}


@pytest.mark.acceptance(96)
def test_round_robin_takes_engines_in_turn() -> None:
    """Each engine gets every third request of three, whatever their loads."""
    driver = Driver.leading(router="round_robin")
    fleet(driver, "a", "b", "c")
    driver.report("b", running=5)
    for number in range(6):
        driver.submit(f"r{number}")
    assert [a.engine_id for a in driver.assignments] == ["a", "b", "c"] * 2


@pytest.mark.acceptance(96)
def test_random_is_even_and_repeats_with_its_seed() -> None:
    """Draws are spread evenly, equal for equal seeds and different for different ones."""
    names = ["a", "b", "c", "d"]
    first, again, other = RandomChoice(1), RandomChoice(1), RandomChoice(2)
    drawn = [chosen_by(first, names, submit()) for _ in range(2000)]
    assert drawn == [chosen_by(again, names, submit()) for _ in range(2000)]
    assert drawn != [chosen_by(other, names, submit()) for _ in range(2000)]
    assert all(abs(count - 500) < 100 for count in Counter(drawn).values())


@pytest.mark.acceptance(97)
@pytest.mark.parametrize("field", ["user", "session"])
def test_affinity_keeps_a_user_on_one_engine(field: str) -> None:
    """All requests of one user or session go to the same engine, and users are spread over all."""
    driver = Driver.leading(router="affinity", backlog_s=60.0)
    fleet(driver, "a", "b", "c", "d", slots=1000)
    for number in range(400):
        driver.submit(f"r{number}", **{field: f"u{number % 40}"})
    homes: dict[int, set[str]] = {}
    for number, assignment in enumerate(driver.assignments):
        homes.setdefault(number % 40, set()).add(assignment.engine_id)
    assert all(len(engines) == 1 for engines in homes.values())
    assert len({engine for engines in homes.values() for engine in engines}) == 4


@pytest.mark.acceptance(97)
def test_affinity_moves_only_the_users_of_a_lost_engine() -> None:
    """Without one engine its users find a new home; all others keep theirs (rendezvous hashing)."""
    router, names = Affinity(), ["a", "b", "c", "d", "e"]
    users = [submit(user=f"u{number}") for number in range(300)]
    before = [chosen_by(router, names, user) for user in users]
    after = [chosen_by(router, names[:-1], user) for user in users]
    assert all(new == old for old, new in zip(before, after, strict=True) if old != "e")
    assert {new for old, new in zip(before, after, strict=True) if old == "e"} == set(names[:-1])


def test_affinity_spills_to_the_next_engine_while_its_own_is_full() -> None:
    """A user whose engine has no room is served elsewhere, and returns when it has."""
    driver = Driver.leading(router="affinity")
    fleet(driver, "a", "b", slots=1)
    driver.submit("r1", user="u")
    driver.submit("r2", user="u")
    home, spill = (assignment.engine_id for assignment in driver.assignments)
    assert home != spill
    driver.end("r1")
    driver.report(home, running=0, last_assignment=1)
    driver.submit("r3", user="u")
    assert driver.assignments[2].engine_id == home


def test_affinity_keeps_tenants_apart() -> None:
    """The same user name in two tenants is two users: over many names their engines differ somewhere."""
    router, names = Affinity(), ["a", "b", "c", "d"]
    homes = {
        tenant: [chosen_by(router, names, submit(user=f"u{n}", tenant=tenant)) for n in range(50)] for tenant in "xy"
    }
    assert homes["x"] != homes["y"]


@pytest.mark.acceptance(98)
def test_locality_sends_equal_prefixes_to_one_engine() -> None:
    """Requests with one prefix hash share an engine, different hashes are spread evenly."""
    router, names = Locality(), ["a", "b", "c", "d"]
    hashes = [stable_hash(f"prompt {number}") for number in range(2000)]
    homes = [chosen_by(router, names, submit(prefix_hash=value)) for value in hashes]
    assert homes == [chosen_by(router, names, submit(prefix_hash=value)) for value in hashes]
    assert all(abs(count - 500) < 100 for count in Counter(homes).values())


@pytest.mark.parametrize("router", ["affinity", "locality"])
def test_without_a_key_hashing_routers_balance_load(router: str) -> None:
    """A request that states neither user, session nor prefix goes to the least loaded engine."""
    driver = Driver.leading(router=router)
    fleet(driver, "a", "b")
    driver.report("a", running=3)
    driver.submit("r1")
    assert driver.assignments[0].engine_id == "b"


@pytest.mark.parametrize("router", ROUTERS.known())
def test_every_router_respects_the_model(router: str) -> None:
    """A request goes to an engine that serves its model, whatever the router."""
    driver = Driver.leading(router=router)
    driver.engine("a", models=("m",), max_num_seqs=100)
    driver.engine("b", models=("other",), max_num_seqs=100)
    driver.engine("c", models=("m", "other"), max_num_seqs=100)
    for number in range(40):
        driver.submit(f"r{number}", model="other", user=f"u{number}", prefix_hash=number * 7919 + 1)
    assert {a.engine_id for a in driver.assignments} <= {"b", "c"}
    assert len(driver.assignments) == 40


def test_the_configured_router_is_consulted_for_every_request() -> None:
    """A router of one's own sees each request once, with eligible engines only, and its word counts."""

    class Last:
        """The last candidate."""

        name = "last"

        def __init__(self) -> None:
            self.seen: list[tuple[str, list[str]]] = []

        def choose(self, request: Submit, offered: Candidates) -> Choice:
            names = [offered.engine_ids[index] for index in range(len(offered))]
            self.seen.append((request.request_id, names))
            return Choice(len(offered) - 1, "the last one")

    router = Last()
    driver = Driver.leading(router=router)
    fleet(driver, "a", "b", "c", slots=1)
    driver.report("b", state="draining")
    for name in ("r1", "r2", "r3"):
        driver.submit(name)
    assert router.seen == [("r1", ["a", "c"]), ("r2", ["a"])]
    assert [a.engine_id for a in driver.assignments] == ["c", "a"]
    assert driver.records[0].record.decisions[0].reason == "last: the last one"


@pytest.mark.parametrize("fault", [-1, 99, None])
def test_a_router_that_fails_costs_its_choice_and_not_the_request(fault: int | None) -> None:
    """An exception or a nonsensical index falls back to the least loaded engine, and the record says so."""

    class Broken:
        """Fails."""

        name = "broken"

        def choose(self, request: Submit, offered: Candidates) -> Choice:
            if fault is None:
                raise RuntimeError("no idea")
            return Choice(fault, "no reason")

    driver = Driver.leading(router=Broken())
    fleet(driver, "a", "b")
    driver.report("a", running=3)
    driver.submit("r1")
    assert driver.assignments[0].engine_id == "b"
    assert "least loaded instead" in driver.records[0].record.decisions[0].reason


def test_prefill_engines_are_spared_while_others_have_room() -> None:
    """Engines of the prefill role run whole requests only where no hybrid or decode engine has room."""
    driver = Driver.leading()
    driver.engine("p", role="prefill", max_num_seqs=1)
    driver.engine("d", role="decode", max_num_seqs=1)
    driver.engine("h", role="hybrid", max_num_seqs=1)
    for number in range(3):
        driver.submit(f"r{number}")
    assert {a.engine_id for a in driver.assignments[:2]} == {"d", "h"}
    assert driver.assignments[2].engine_id == "p"


def test_an_unknown_router_name_is_an_error_that_lists_the_known_ones() -> None:
    """No name is silently replaced by another router."""
    with pytest.raises(
        InvalidArgument, match="affinity, cache_aware, load_balanced, locality, predictive, random, round_robin"
    ):
        ROUTERS.make("adaptive")


def test_the_fleet_grows_beyond_its_first_arrays() -> None:
    """A hundred engines come and go, and each request finds the right one."""
    driver = Driver.leading(remember_engine_s=1)
    fleet(driver, *(f"e{number}" for number in range(100)), slots=1)
    for number in range(100):
        driver.submit(f"r{number}")
    assert len({a.engine_id for a in driver.assignments}) == 100
    for number in range(99):
        driver.feed(events.EngineGone(f"e{number}"))
    driver.wait(3, alive=("e99",))
    assert [engine.engine_id for engine in driver.core.fleet] == ["e99"]
    driver.engine("new", max_num_seqs=1)
    driver.submit("last")
    assert driver.assignments[-1].engine_id in {"new", "e99"}
