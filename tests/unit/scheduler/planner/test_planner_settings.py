"""Settings of the planner: what is read, and what stops the start."""

import pytest

from sagellm_common.settings import load_settings
from sagellm_scheduler.planner.service import config_of
from sagellm_scheduler.planner.settings import PlannerSettings


def test_the_environment_says_what_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """SLOs, bounds and times reach the core's configuration; an empty SLO is none."""
    wanted = {"SLO_TTFT_MS": "500", "SLO_ITL_MS": "", "PLAN_LEAST": "2", "PLAN_MOST": "5", "PLAN_ROLES": "true"}
    for name, value in wanted.items():
        monkeypatch.setenv(f"SAGELLM_{name}", value)
    config = config_of(load_settings(PlannerSettings))
    assert (config.slo.ttft_ms, config.slo.itl_ms) == (500.0, None)
    assert (config.least, config.most, config.apart, config.hold_s) == (2, 5, True, 120.0)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"PLAN_LEAST": "3", "PLAN_MOST": "2"}, "SAGELLM_PLAN_MOST: Value error, 2 is less than SAGELLM_PLAN_LEAST, 3"),
        ({"PLAN_ATTAINMENT": "1"}, "SAGELLM_PLAN_ATTAINMENT: Input should be less than 1"),
        ({"SCALER": "slurm"}, "SAGELLM_SCALER: Input should be 'none' or 'kubernetes'"),
        ({"SCALER": "kubernetes", "PLAN_OFFERS": "o.json"}, "leave one of them out"),
        ({"KUBERNETES_URL": "10.0.0.1:6443"}, "one looks like https://10.0.0.1:6443"),
    ],
)
def test_a_wrong_value_stops_the_start_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], values: dict[str, str], words: str
) -> None:
    """Each fault is one sentence with the variable and what to do; the exit code is 2."""
    for name, value in values.items():
        monkeypatch.setenv(f"SAGELLM_{name}", value)
    with pytest.raises(SystemExit) as caught:
        load_settings(PlannerSettings)
    assert caught.value.code == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert words in told[0]
