"""Telemetry: structured logs, traces over OTLP, Prometheus metrics."""

from sagellm_common.telemetry.logs import configure_logs
from sagellm_common.telemetry.traces import configure_traces

__all__ = ["configure_logs", "configure_traces"]
