"""A mock engine's core in virtual time: it passes only while the engine computes."""

from sagellm_engine.backends.mock import MockRunner
from sagellm_engine.core.config import EngineConfig, MockConfig
from sagellm_engine.core.engine import EngineCore


class Clock:
    """Time that passes only while a mock engine computes, `slowness` times as fast."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slowness = 1.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += self.slowness * seconds


def virtual_core(clock: Clock, times: MockConfig, **settings: object) -> EngineCore:
    """An idle mock core with this time model."""
    config = EngineConfig(backend="mock", mock=times, **settings)  # type: ignore[arg-type] # whatever the test sets
    return EngineCore(config, MockRunner(config, sleep=clock.sleep), clock=clock)
