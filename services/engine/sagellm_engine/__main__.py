"""`python -m sagellm_engine`: one engine on the bus, set up by the environment."""

from sagellm_common.runner import run
from sagellm_common.settings import load_settings
from sagellm_engine.service.main import serve
from sagellm_engine.settings import EngineSettings


def main() -> None:
    """Run one engine until it is told to stop."""
    settings = load_settings(EngineSettings)
    run("engine", settings.engine_id, settings, lambda stop: serve(settings, stop))


if __name__ == "__main__":
    main()
