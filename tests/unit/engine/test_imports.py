"""What importing the engine's core costs and pulls in."""

import subprocess
import sys

import pytest

SERVICES = ("nats", "pydantic", "pydantic_settings", "structlog", "msgpack", "opentelemetry")


def modules_after(code: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has after running code."""
    program = f"{code}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(output.stdout.split())


MOCK = """
from sagellm_engine.core import EngineConfig, EngineRequest, SamplingParams
from sagellm_engine.inprocess import LocalEngine
engine = LocalEngine(EngineConfig(backend="mock"))
assert len(engine.generate([[1, 2]], SamplingParams(max_tokens=4))[0]) == 4
"""


def test_mock_needs_no_torch() -> None:
    """With the mock backend the core runs without torch or transformers, and without the services' libraries."""
    assert modules_after(MOCK).isdisjoint({"torch", "transformers", "safetensors", *SERVICES})


@pytest.mark.parametrize("module", ["cpu", "cuda"])
def test_backends_need_no_service_libraries(module: str) -> None:
    """The torch backends import none of the services' libraries, and not transformers either."""
    loaded = modules_after(f"import sagellm_engine.backends.{module}")
    assert "torch" in loaded
    assert loaded.isdisjoint({"transformers", *SERVICES})


@pytest.mark.parametrize(
    "module", ["kv.pool", "batching.policy", "core.engine", "core.sequence", "backends.mock", "sampling.sampler"]
)
def test_any_module_can_come_first(module: str) -> None:
    """No import order is needed: each module can be the first one."""
    assert "sagellm_engine" in modules_after(f"import sagellm_engine.{module}")
