"""The step loop: requests in, tokens out, one plain synchronous step at a time; nothing here knows NATS.

`core.engine.EngineCore` is the loop itself; `factory.create_engine` makes one from a configuration.
"""

from sagellm_engine.core.config import EngineConfig, MockConfig
from sagellm_engine.core.types import (
    EngineGauges,
    EngineRequest,
    FinishReason,
    ModelInfo,
    RequestKey,
    SamplingParams,
    StepOutput,
    StepReport,
    TokenLogprobs,
    TokenOutput,
)

__all__ = [
    "EngineConfig",
    "EngineGauges",
    "EngineRequest",
    "FinishReason",
    "MockConfig",
    "ModelInfo",
    "RequestKey",
    "SamplingParams",
    "StepOutput",
    "StepReport",
    "TokenLogprobs",
    "TokenOutput",
]
