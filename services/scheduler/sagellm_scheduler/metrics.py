"""Prometheus metrics of the scheduler."""

from collections import Counter as Counts

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sagellm_scheduler.core.machine import SchedulerCore

QUEUE_TIME_BUCKETS_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0)
DECISION_TIME_BUCKETS_S = (25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2e-3, 5e-3, 20e-3)


class SchedulerMetrics:
    """The scheduler's metrics in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.queue_length = Gauge("sagellm_scheduler_queue_length", "Requests that wait", registry=self.registry)
        self.open_requests = Gauge("sagellm_scheduler_open_requests", "Requests known as open", registry=self.registry)
        self.is_leader = Gauge("sagellm_scheduler_is_leader", "1 while this scheduler leads", registry=self.registry)
        self.engines = Gauge("sagellm_scheduler_engines", "Engines by state", ["state"], registry=self.registry)
        self.queue_time = Histogram(
            "sagellm_scheduler_queue_time_seconds",
            "From submit to assignment",
            buckets=QUEUE_TIME_BUCKETS_S,
            registry=self.registry,
        )
        self.decision_time = Histogram(
            "sagellm_scheduler_decision_time_seconds",
            "Computing time of an event that led to assignments, per assignment",
            buckets=DECISION_TIME_BUCKETS_S,
            registry=self.registry,
        )
        self.decisions = Counter(
            "sagellm_scheduler_decisions", "Assignments made", ["queue_policy", "router"], registry=self.registry
        )
        self.rejected = Counter("sagellm_scheduler_rejected", "Requests rejected", ["code"], registry=self.registry)
        self.ignored = Gauge(
            "sagellm_scheduler_ignored_messages", "Messages dropped, by reason", ["reason"], registry=self.registry
        )

    def observe(self, core: SchedulerCore) -> None:
        """Set the gauges from the state of the core; called on its own thread."""
        self.queue_length.set(len(core.dispatcher.queues))
        self.open_requests.set(len(core.dispatcher.book))
        self.is_leader.set(core.is_leader)
        states = Counts("ready" if engine.is_ready else engine.why_not_ready().split(":")[0] for engine in core.fleet)
        for state in {"ready", "lost", "draining", *states}:
            self.engines.labels(state).set(states[state])
        for reason, count in core.counts.items():
            self.ignored.labels(reason).set(count)
        self.ignored.labels("report").set(core.fleet.ignored_reports)
