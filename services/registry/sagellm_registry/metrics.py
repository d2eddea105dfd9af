"""Metrics of the registry."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class RegistryMetrics:
    """The registry's metrics, on a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "sagellm_registry_requests", "Requests by verb and outcome", ["verb", "code"], registry=self.registry
        )
        self.seconds = Histogram(
            "sagellm_registry_request_seconds", "Time of a request", ["verb"], registry=self.registry
        )
        self.models = Gauge("sagellm_registry_models", "Models that are whole and usable", registry=self.registry)
        self.downloads = Gauge("sagellm_registry_downloads_running", "Downloads that run", registry=self.registry)
        self.downloaded = Counter(
            "sagellm_registry_downloaded_bytes", "Bytes of models downloaded and verified", registry=self.registry
        )
        self.failures = Counter(
            "sagellm_registry_download_failures", "Downloads that failed, by code", ["code"], registry=self.registry
        )
