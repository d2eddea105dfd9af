"""The launcher's decisions: plan, threads, ports, restarts, records, the guard."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sagellm.launcher import guard
from sagellm.launcher.backoff import LONGEST_S, STEADY_S, Backoff
from sagellm.launcher.config import StackConfig
from sagellm.launcher.plan import make_plan
from sagellm.launcher.ports import choose_port
from sagellm.launcher.record import StackRecord, is_alive, newest_running, read_record
from sagellm.launcher.threads import engine_thread_env, engine_threads, usable_cores
from sagellm_common.errors import InvalidArgument, Unavailable


@pytest.mark.parametrize(("cores", "engines", "each"), [(1, 1, 1), (2, 1, 1), (8, 1, 7), (8, 2, 3), (8, 16, 1)])
def test_engines_share_the_cores_that_are_left(cores: int, engines: int, each: int) -> None:
    """All engines together use at most max(cores - 1, engines) threads, each at least one."""
    assert engine_threads(cores, engines) == each
    assert each * engines <= max(cores - 1, engines)


def test_only_a_single_engine_with_several_threads_is_pinned() -> None:
    """Pinned sets of several engines would overlap on the same cores."""
    assert engine_thread_env(8, 1)["OMP_PROC_BIND"] == "true"
    assert "OMP_PROC_BIND" not in engine_thread_env(8, 2)
    assert "OMP_PROC_BIND" not in engine_thread_env(2, 1)


def test_a_plan_has_every_service_once_and_as_many_engines_as_wanted(tmp_path: Path) -> None:
    """All services share bus and deployment; the nats-server comes first."""
    plan = make_plan(StackConfig(engines=3, queue="priority"), tmp_path, port=8000, nats_port=4000)
    assert [child.kind for child in plan.children] == ["nats", *["engine"] * 3, "gateway", "scheduler", "registry"]
    assert len({child.name for child in plan.children}) == 7
    services = plan.children[1:]
    assert {child.env["SAGELLM_NATS_URL"] for child in services} == {"nats://127.0.0.1:4000"} == {plan.nats_url}
    scheduler = next(child for child in services if child.kind == "scheduler")
    assert scheduler.env["SAGELLM_QUEUE_POLICY"] == "priority"


def test_roles_are_given_to_engines_in_turn(tmp_path: Path) -> None:
    """Three engines and two roles; the scheduler is told how to separate."""
    config = StackConfig(engines=3, roles=("prefill", "decode"), pd="threshold")
    children = make_plan(config, tmp_path, port=8000, nats_port=4000).children
    roles = [child.env["SAGELLM_ENGINE_ROLE"] for child in children if child.kind == "engine"]
    assert roles == ["prefill", "decode", "prefill"]
    assert [c.env["SAGELLM_PD_POLICY"] for c in children if c.kind == "scheduler"] == ["threshold"]
    with pytest.raises(InvalidArgument, match="no role 'cook'; known are hybrid, prefill, decode"):
        StackConfig(roles=("cook",))


def test_with_a_scale_a_planner_keeps_within_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--scale 2..5`: a planner with these bounds, two engines at first, each made for five on the machine, and as many
    more as are asked for. Its times follow the caller's environment."""
    monkeypatch.setenv("SAGELLM_PLAN_LEAD_S", "30")
    config = StackConfig(engines=2, scale_to=5, env={"SAGELLM_PLAN_EVERY_S": "1"})
    plan = make_plan(config, tmp_path, port=8000, nats_port=4000)
    assert [child.kind for child in plan.children].count("engine") == 2
    [planner] = [child for child in plan.children if child.kind == "planner"]
    wanted = {"LEAST": "2", "MOST": "5", "EVERY_S": "1", "LEAD_S": "30"}
    assert {name: planner.env[f"SAGELLM_PLAN_{name}"] for name in wanted} == wanted
    assert planner.command[-2:] == ("-m", "sagellm_scheduler.planner")
    more = plan.engine(7, "decode")
    assert (more.name, more.env["SAGELLM_ENGINE_ID"]) == ("engine-7", "engine-7")
    assert more.env["SAGELLM_ENGINE_ROLE"] == "decode"
    first = next(child for child in plan.children if child.kind == "engine")
    assert first.env["SAGELLM_ENGINE_ROLE"] == "hybrid"
    assert first.env["SAGELLM_THREADS"] == str(engine_threads(usable_cores(), 5))


def test_a_scale_that_contradicts_itself_is_refused() -> None:
    """More at first than at most, and roles beside a planner, which gives them itself."""
    with pytest.raises(InvalidArgument, match="scale: give 3 to 64 engines at most, not 2"):
        StackConfig(engines=3, scale_to=2)
    with pytest.raises(InvalidArgument, match="leave out --roles, and set SAGELLM_PLAN_ROLES=true"):
        StackConfig(scale_to=2, roles=("prefill",))


def test_a_given_bus_is_used_and_names_do_not_collide_on_it(tmp_path: Path) -> None:
    """With a NATS URL no server is started, and names carry host and process."""
    plan = make_plan(StackConfig(nats_url="nats://bus:4222"), tmp_path, port=8000, nats_port=1)
    assert "nats" not in {child.kind for child in plan.children}
    assert all(str(os.getpid()) in child.name for child in plan.children)


def test_a_wrong_number_of_engines_is_refused() -> None:
    """The configuration names what is wrong."""
    with pytest.raises(InvalidArgument, match="engines: give 1 to 64"):
        StackConfig(engines=0)


def test_a_busy_port_is_an_error_if_wanted_and_passed_over_if_not() -> None:
    """8000 or the next free one; a given port that is taken is said clearly."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Unavailable, match=f"port {port} is in use"):
            choose_port("127.0.0.1", port)
    assert choose_port("127.0.0.1", None) >= 8000


def test_pauses_double_up_to_a_limit_and_begin_anew_after_a_steady_minute() -> None:
    """A child that dies at once again and again is started less and less often."""
    backoff = Backoff()
    pauses = [backoff.died(0.1) for _ in range(10)]
    assert pauses[:4] == [0.5, 1.0, 2.0, 4.0]
    assert pauses[-1] == LONGEST_S
    assert backoff.died(STEADY_S) == 0.5


def test_a_record_counts_only_while_its_process_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands find the newest living stack; records of dead processes and broken files are passed over."""
    monkeypatch.setenv("SAGELLM_STATE_DIR", str(tmp_path))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for name, pid, started_at in (("old", os.getpid(), 1.0), ("new", os.getpid(), 2.0), ("dead", ended.pid, 3.0)):
        folder = tmp_path / "run" / name
        folder.mkdir(parents=True)
        record = StackRecord(
            name=name, pid=pid, http_url="h", nats_url="n", deployment="default", started_at=started_at
        )
        record.write(folder)
    (tmp_path / "run" / "broken").mkdir()
    (tmp_path / "run" / "broken" / "stack.json").write_text("{")
    newest = newest_running()
    assert newest is not None
    assert newest.name == "new"
    assert read_record(tmp_path / "run" / "dead") is None
    assert (tmp_path / "run" / "new" / "stack.json").stat().st_mode & 0o077 == 0


def test_a_process_that_waits_to_be_collected_is_not_alive() -> None:
    """An ended child of ours that nobody has waited for does not count as running."""
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.read()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not is_alive(child.pid)
    child.communicate()


def test_the_guard_remembers_what_is_left() -> None:
    """Groups that were added and not removed are left; blank lines do no harm."""
    assert guard.remaining(["+10\n", "+11\n", "\n", "-10\n"]) == {11}


def test_the_guard_ends_a_group_that_ignores_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    """When its input ends, the guard ends the listed groups, with SIGKILL if need be."""
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE, start_new_session=True)
    assert child.stdout is not None
    child.stdout.readline()
    code = "from sagellm.launcher import guard; guard.GRACE_S = 0.2; guard.main()"
    subprocess.run([sys.executable, "-c", code], input=f"+{child.pid}\n".encode(), check=True, timeout=20)
    assert child.wait(10) == -9
    child.stdout.close()
