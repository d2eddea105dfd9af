"""The section on planning names every setting of the planner."""

import re
from pathlib import Path

from sagellm_common.settings import ServiceSettings
from sagellm_scheduler.planner.offers import _Row
from sagellm_scheduler.planner.settings import PlannerSettings

TEXT = (Path(__file__).parents[2] / "docs" / "scheduling.md").read_text().split("\n## Planning\n")[1].split("\n## ")[0]


def test_every_setting_of_the_planner_is_documented() -> None:
    """The table has each setting that not all services have, and none that there is not."""
    rows = re.findall(r"^\| (`SAGELLM_[^|]+) \|", TEXT, re.M)
    named = {name for row in rows for name in re.findall(r"SAGELLM_(\w+)", row)}
    own = PlannerSettings.model_fields.keys() - ServiceSettings.model_fields.keys()
    assert named == {name.upper() for name in own}


def test_the_defaults_are_those_of_the_code() -> None:
    """Numbers in the table are the settings' own."""
    defaults = PlannerSettings()
    for name in ("plan_attainment", "plan_every_s", "plan_lead_s", "plan_hold_s"):
        assert re.search(rf"`SAGELLM_{name.upper()}` \| {getattr(defaults, name):g} \|", TEXT), name
    assert f"`SAGELLM_PLAN_MOST` | {defaults.plan_least}, {defaults.plan_most} |" in TEXT


def test_every_field_of_an_offer_is_documented() -> None:
    """The file of offers has the fields that the section lists."""
    assert all(f"`{field}`" in TEXT for field in _Row.model_fields)
