"""Settings of an engine process."""

import pytest
from pydantic import ValidationError

from sagellm_common.errors import InvalidArgument
from sagellm_engine.settings import EngineSettings


def test_every_setting_reaches_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's values arrive in the core's configuration."""
    values = {
        "BACKEND": "mock",
        "DTYPE": "bfloat16",
        "MAX_MODEL_LEN": "123",
        "MAX_NUM_SEQS": "7",
        "MAX_BATCH_TOKENS": "77",
        "MAX_WAITING": "9",
        "NUM_PAGES": "11",
        "KV_CACHE_MEMORY_BYTES": "1000",
        "GPU_MEMORY_UTILIZATION": "0.5",
        "THREADS": "1",
        "ENABLE_PREFIX_CACHE": "false",
        "MOCK_STEP_MS": "1.5",
        "MOCK_PREFILL_MS_PER_TOKEN": "0.1",
        "MOCK_DECODE_MS_PER_SEQ": "0.2",
        "MOCK_VOCAB_SIZE": "50",
    }
    for name, value in values.items():
        monkeypatch.setenv(f"SAGELLM_{name}", value)
    config = EngineSettings().core_config()
    assert (config.backend, config.dtype, config.max_model_len, config.max_num_seqs) == ("mock", "bfloat16", 123, 7)
    assert (config.max_batch_tokens, config.max_waiting, config.num_pages) == (77, 9, 11)
    assert (config.kv_cache_memory_bytes, config.memory_utilization) == (1000, 0.5)
    assert (config.num_threads, config.prefix_cache) == (1, False)
    mock = config.mock
    assert (mock.step_base_ms, mock.ms_per_prefill_token, mock.ms_per_decode_seq, mock.vocab_size) == (
        1.5,
        0.1,
        0.2,
        50,
    )


def test_without_a_model_the_built_in_one_is_served() -> None:
    """A mock engine has a model of its own by default, every other engine the built-in one."""
    assert EngineSettings().model_name == "sage-tiny"
    assert EngineSettings(backend="mock").model_name == "mock-model"
    assert EngineSettings(backend="mock", model="x").model_name == "x"


def test_two_engines_have_two_ids() -> None:
    """The default engine id is unique."""
    assert EngineSettings().engine_id != EngineSettings().engine_id


@pytest.mark.parametrize(
    ("settings", "transport"),
    [
        ({}, ""),
        ({"engine_role": "prefill"}, "nixl"),
        ({"engine_role": "decode"}, "nixl"),
        ({"engine_role": "decode", "kv_transfer": "none"}, ""),
        ({"kv_transfer": "nixl"}, "nixl"),
        ({"kv_transfer": "mine.transport:Mine"}, "mine.transport:Mine"),
    ],
)
def test_engines_with_a_role_hand_over(settings: dict[str, str], transport: str) -> None:
    """By NIXL unless told otherwise; hybrid ones only when told so."""
    made = EngineSettings(**settings)  # type: ignore[arg-type] # as the environment has them
    assert made.transport == transport
    assert bool(made.warning) == (made.engine_role != "hybrid" and not transport)


@pytest.mark.parametrize(
    "wrong", [{"engine_role": "x"}, {"kv_transfer": "pigeon"}, {"gpu_memory_utilization": 1.5}, {"mock_step_ms": -1.0}]
)
def test_wrong_values_are_refused(wrong: dict[str, object]) -> None:
    """What cannot work is refused when the settings are read."""
    with pytest.raises(ValidationError):
        EngineSettings.model_validate(wrong)


def test_what_fits_no_engine_is_refused_by_name() -> None:
    """Settings that exclude each other end in an error that names them."""
    with pytest.raises(InvalidArgument, match="max_num_seqs"):
        EngineSettings(max_num_seqs=64, max_batch_tokens=8).core_config()
