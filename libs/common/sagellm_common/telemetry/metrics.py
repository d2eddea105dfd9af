"""Prometheus metrics: a port for services without HTTP, and aliases under the names of vLLM's public contract."""

from collections.abc import Iterable, Mapping
from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Metric, start_http_server
from prometheus_client.registry import Collector

from sagellm_common.errors import Unavailable


class _Aliases(Collector):
    """Repeats metric families under other names at each scrape."""

    def __init__(self, source: CollectorRegistry, names: Mapping[str, str]) -> None:
        self._source, self._names = source, names

    def collect(self) -> Iterable[Metric]:
        for family in self._source.collect():
            name = self._names.get(family.name)
            if name is not None:
                yield _renamed(family, name)

    def describe(self) -> Iterable[Metric]:
        return []


def _renamed(family: Metric, name: str) -> Metric:
    renamed = Metric(name, family.documentation, family.type, family.unit)
    renamed.samples = [s._replace(name=name + s.name.removeprefix(family.name)) for s in family.samples]
    return renamed


def alias(registry: CollectorRegistry, names: Mapping[str, str]) -> CollectorRegistry:
    """Return a registry that exposes everything in `registry`, and the families in `names` under both names.

    Names are those of families: without `_total`, `_bucket` and the like.
    """
    exposed = CollectorRegistry()
    exposed.register(_Everything(registry))
    exposed.register(_Aliases(registry, names))
    return exposed


class _Everything(Collector):
    """All families of another registry."""

    def __init__(self, source: CollectorRegistry) -> None:
        self._source = source

    def collect(self) -> Iterable[Metric]:
        return self._source.collect()

    def describe(self) -> Iterable[Metric]:
        return []


class MetricsServer:
    """A `/metrics` port in a thread."""

    def __init__(self, server: WSGIServer, thread: Thread) -> None:
        self._server, self._thread = server, thread

    @property
    def port(self) -> int:
        return self._server.server_port

    def close(self) -> None:
        """Stop listening; returns when the thread has ended."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def serve(registry: CollectorRegistry, port: int | None, host: str = "0.0.0.0") -> MetricsServer | None:
    """Serve `/metrics` on `port` (0: any free one; None: not at all); raises Unavailable if the port is taken."""
    if port is None:
        return None
    try:
        return MetricsServer(*start_http_server(port, addr=host, registry=registry))
    except OSError as error:
        raise Unavailable(f"port {port} for metrics is in use: set SAGELLM_METRICS_PORT to another") from error
