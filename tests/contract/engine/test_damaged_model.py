"""An engine that is given a damaged model does not start, and says which file to replace."""

from pathlib import Path

import pytest

from sagellm_common.settings import BusSettings
from support.processes import Services
from support.tiny_models import make_tiny_model


@pytest.mark.parametrize("kept", [0.5, 0.0], ids=["half the file", "no byte of it"])
async def test_a_cut_weight_file_ends_the_start_with_its_name(
    bus_settings: BusSettings, services: Services, tmp_path: Path, kept: float
) -> None:
    """The process ends with exit code 1, and its last words are one sentence that names the file."""
    make_tiny_model("llama", tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: int(len(whole) * kept)])
    process = services.start("engine", bus_settings, engine_id="e1", backend="cpu", model=weights.parent)
    assert await process.wait(60) == 1, process.log_text()
    said = process.log_text().strip().splitlines()[-1]
    assert said.startswith(f"sagellm-engine: {weights} is missing or damaged"), said
    assert said.endswith("download the model again")
    assert "Traceback" not in process.log_text()
