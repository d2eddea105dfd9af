"""What is said of measured engines follows from the figures."""

from typing import Any

import pytest

from benchmarks.engine_report import ratios, section, summary
from benchmarks.peers.session import WORKLOADS
from benchmarks.roofline import Mode, tokens_per_s

CONFIG = {
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "vocab_size": 1000,
}
LIMITS = {"read": 10.0, "fp32": 100.0, "bf16": 200.0, "int8": 400.0, "int4": 300.0}


def row(name: str, *rates: float) -> dict[str, Any]:
    """Make one engine's row."""
    facts = {"weights": "int8", "activations": "int8", "kv": "u8", "start_s": 1.0}
    return {"name": name, "tokens_per_s": dict(zip(WORKLOADS, rates, strict=True)), **facts}


@pytest.fixture
def result() -> dict[str, Any]:
    """Make figures of three classes."""
    return {
        "threads": 2,
        "rounds": 5,
        "config": CONFIG,
        "limits": LIMITS,
        "groups": {
            "lossless": [row("sageLLM, bf16", 20, 20, 20, 11), row("A", 10, 5, 5, 10), row("B", 5, 16, 10, 5)],
            "int8": [row("sageLLM, INT8", 40, 40, 40, 40), row("A, INT8", 20, 20, 20, 10)],
            "int4": [row("sageLLM, INT4", 40, 40, 40, 40), row("A, INT4", 10, 10, 10, 20)],
        },
    }


def test_a_ratio_is_against_the_best_of_the_class(result: dict[str, Any]) -> None:
    """Each workload has its own best peer; INT4 is held against INT8 peers too."""
    lossless = ratios(result, "lossless", result["groups"]["lossless"][0])
    assert lossless == {"W1": 2.0, "W2": 1.25, "W3": 2.0, "W4": 1.1, "mean": pytest.approx(1.531, abs=0.001)}
    int4 = ratios(result, "int4", result["groups"]["int4"][0])
    assert [int4[name] for name in WORKLOADS] == [2.0, 2.0, 2.0, 2.0]


def test_fp32_activations_are_held_against_fp32_activations(result: dict[str, Any]) -> None:
    """Our mode with fp32 activations has the peers with them as its rivals."""
    ours = row("sageLLM, fp32 activations", 10, 10, 10, 10)
    result["groups"]["lossless"] += [ours, row("C, fp32", 5, 5, 5, 20), row("D, f32", 1, 10, 1, 1)]
    assert ratios(result, "lossless", ours) == {
        "W1": 2.0,
        "W2": 1.0,
        "W3": 2.0,
        "W4": 0.5,
        "mean": pytest.approx(1.189),
    }


def test_the_goals_read_the_least_ratio(result: dict[str, Any]) -> None:
    """Lossless W4 has a goal of its own and does not count as the least."""
    assert summary(result)["lossless"]["least"] == 1.25
    assert summary(result)["int8"]["least"] == 2.0


def test_the_table_names_every_engine(result: dict[str, Any]) -> None:
    """Every engine has a line, ours also its ratio and its share of the roofline."""
    text = "\n".join(section("tiny", result))
    for name in ("sageLLM, bf16", "A", "B", "A, INT8", "sageLLM, INT4 / best INT8 or INT4 peer"):
        assert f"| {name} |" in text
    assert text.count("/ its roofline") == 3


def test_the_roofline_is_the_slower_of_reading_and_computing() -> None:
    """With endless operations a step takes as long as its bytes are read; with endless reading, as its operations."""
    mode = Mode(2, "bf16", "fp32", 2)
    head, weights = 1000 * 64, 3 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)
    reading = tokens_per_s(CONFIG, "W1", mode, {**LIMITS, "bf16": 1e30, "fp32": 1e30})
    keys = sum(128 + step for step in range(1, 64))
    bytes_read = 63 * (weights + head) * 2 + keys * 2 * 32 * 3 * 2
    assert reading == pytest.approx(64 / (bytes_read / 10e9))
    fewer = tokens_per_s(CONFIG, "W1", mode, {**LIMITS, "bf16": 1e30, "fp32": 1e30}, (weights + head) * 1.5)
    assert fewer == pytest.approx(64 / ((bytes_read - 63 * (weights + head) * 0.5) / 10e9))
    computing = tokens_per_s(CONFIG, "W1", mode, {**LIMITS, "read": 1e30})
    saved = (2 * 64 * 64 + 3 * 64 * 128) * 127  # of the last layer only keys and values, but for the last token
    products = 2 * (weights * 128 - saved + head + 63 * (weights + head)) / 200e9
    attention = 4 * 64 * (2 * 128**2 / 2 + 128 + 3 * keys) / 100e9
    assert computing == pytest.approx(64 / (products + attention))
    screened = tokens_per_s(CONFIG, "W1", mode, {**LIMITS, "read": 1e30}, screens=True)
    assert screened == pytest.approx(64 / (products + attention - 64 * 2 * head * (1 / 200e9 - 1 / 400e9)))
