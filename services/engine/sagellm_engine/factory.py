"""From a configuration to a running core."""

from sagellm_engine.backends.registry import choose_backend
from sagellm_engine.core.config import EngineConfig
from sagellm_engine.core.engine import EngineCore


def create_engine(config: EngineConfig) -> EngineCore:
    """Choose the backend, load the model, and return an idle core that owns it.

    Raises NotFound or Unavailable for the backend, NotFound or InvalidArgument for the model, ResourceExhausted when
    the memory cannot hold one request of `max_model_len`.
    """
    _, backend = choose_backend(config.backend)
    return EngineCore(config, backend.load(config))
