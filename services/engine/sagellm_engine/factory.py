"""From a configuration to a running core."""

from sagellm_engine.backends.registry import choose_backend
from sagellm_engine.core.config import EngineConfig
from sagellm_engine.core.engine import EngineCore
from sagellm_engine.core.out_of_memory import is_out_of_memory, out_of_memory


def create_engine(config: EngineConfig) -> EngineCore:
    """Choose the backend, load the model, and return an idle core that owns it.

    Raises NotFound or Unavailable for the backend, NotFound or InvalidArgument for the model, ResourceExhausted when
    the memory cannot hold one request of `max_model_len`.
    """
    _, backend = choose_backend(config.backend)
    try:
        return EngineCore(config, backend.load(config))
    except (MemoryError, OSError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise out_of_memory("loading the model") from error
        raise
