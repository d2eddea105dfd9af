"""`python -m sagellm_scheduler.planner`: one planner process."""

import asyncio

from sagellm_common.runner import run
from sagellm_common.settings import load_settings
from sagellm_scheduler.planner.service import serve
from sagellm_scheduler.planner.settings import PlannerSettings


def main() -> None:
    """Plan until SIGTERM or SIGINT."""
    settings = load_settings(PlannerSettings)

    async def until(stop: asyncio.Event) -> None:
        await serve(settings, stop)

    run("planner", settings.planner_id, settings, until)


if __name__ == "__main__":
    main()
