"""`python -m sagellm_scheduler`: one scheduler process."""

import asyncio

from sagellm_common.runner import run
from sagellm_common.settings import load_settings
from sagellm_scheduler.service.app import serve
from sagellm_scheduler.settings import SchedulerSettings


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    settings = load_settings(SchedulerSettings)

    async def until(stop: asyncio.Event) -> None:
        await serve(settings, stop)

    run("scheduler", settings.scheduler_id, settings, until)


if __name__ == "__main__":
    main()
