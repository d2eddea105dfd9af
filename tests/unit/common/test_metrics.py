"""Metrics: aliases repeat families whole, and the port serves them."""

import urllib.request

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from sagellm_common.errors import Unavailable
from sagellm_common.telemetry import metrics


def _registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Histogram("sagellm_ttft_seconds", "TTFT", ["model_name"], registry=registry).labels("m").observe(0.1)
    Counter("sagellm_tokens", "tokens", registry=registry).inc(3)
    return registry


def test_aliases_carry_labels_buckets_and_totals() -> None:
    """An aliased histogram and counter expose the same samples under the other name."""
    exposed = metrics.alias(
        _registry(), {"sagellm_ttft_seconds": "vllm:time_to_first_token_seconds", "sagellm_tokens": "vllm:tokens"}
    )
    text = generate_latest(exposed).decode()
    assert 'vllm:time_to_first_token_seconds_count{model_name="m"} 1.0' in text
    assert 'sagellm_ttft_seconds_count{model_name="m"} 1.0' in text
    assert "vllm:tokens_total 3.0" in text


def test_the_port_serves_and_a_taken_port_is_one_sentence() -> None:
    """`/metrics` answers on the port; a second server on it is refused with what to do."""
    server = metrics.serve(_registry(), 0, "127.0.0.1")
    assert server is not None
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics") as reply:
        assert b"sagellm_tokens_total 3.0" in reply.read()
    with pytest.raises(Unavailable, match="SAGELLM_METRICS_PORT"):
        metrics.serve(_registry(), server.port, "127.0.0.1")
    server.close()
    assert metrics.serve(_registry(), None) is None
