"""A local server that speaks the part of the Kubernetes API that the scaler uses, with one namespace and its rights.

`GET .../deployments` and `.../pods` by equality selectors, merge patches of pods and of a Deployment's scale. Whoever
has no token gets 401; other calls than these get 404.
"""

import json
import re
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

NAMESPACE = "models"
_DEPLOYMENTS = re.compile(rf"/apis/apps/v1/namespaces/{NAMESPACE}/deployments(/(?P<name>[^/]+)(?P<sub>/scale)?)?")
_PODS = re.compile(rf"/api/v1/namespaces/{NAMESPACE}/pods(/(?P<name>[^/]+)(?P<sub>))?")
MERGE_PATCH = "application/merge-patch+json"
VERBS = {("GET", False): "list", ("GET", True): "get", ("PATCH", True): "patch"}


@dataclass(frozen=True, slots=True)
class Call:
    """One request: what a Role has to allow for it, and what it asked for."""

    verb: str
    group: str
    resource: str
    name: str
    selector: str
    patch: Any


@dataclass
class Thing:
    """A Deployment or a pod."""

    name: str
    labels: dict[str, str]
    replicas: int = 1
    annotations: dict[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        metadata = {"name": self.name, "labels": self.labels, "annotations": self.annotations}
        return {"metadata": metadata, "spec": {"replicas": self.replicas}}


class KubernetesApi:
    """What there is, the token that is valid, and the calls so far. `answers` replaces the answer of the next calls of
    a verb and resource by a status and a body."""

    def __init__(self) -> None:
        self.deployments: dict[str, Thing] = {}
        self.pods: dict[str, Thing] = {}
        self.token = "first"
        self.calls: list[Call] = []
        self.answers: dict[tuple[str, str], list[tuple[int, str]]] = {}
        self.url = ""

    def deployment(self, name: str, labels: dict[str, str], replicas: int = 1) -> Thing:
        """Add a Deployment, and a pod of the same labels for each replica."""
        self.deployments[name] = Thing(name, labels, replicas)
        for number in range(replicas):
            self.pods[f"{name}-{number}"] = Thing(f"{name}-{number}", labels)
        return self.deployments[name]

    def patches(self, resource: str) -> list[tuple[str, Any]]:
        """Return name and patch of each call that changed a resource."""
        return [(call.name, call.patch) for call in self.calls if (call.verb, call.resource) == ("patch", resource)]

    @contextmanager
    def answering(self, verb: str, resource: str, status: int, body: str) -> Iterator[None]:
        """Answer every such call so while the block lasts."""
        self.answers[verb, resource] = [(status, body)]
        yield
        del self.answers[verb, resource]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer as an API server would."""
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return _status(401, "Unauthorized")
        pods, deployments = _PODS.fullmatch(request.path), _DEPLOYMENTS.fullmatch(request.path)
        match = pods or deployments
        if match is None:
            return _status(404, "the server could not find the requested resource")
        kind = "pods" if pods else "deployments"
        resource, name = kind + (match["sub"] or ""), match["name"] or ""
        verb = VERBS.get((request.method, bool(name)), "?")
        selector = request.query.get("labelSelector", "")
        patch = json.loads(await request.text()) if verb == "patch" else None
        self.calls.append(Call(verb, "" if pods else "apps", resource, name, selector, patch))
        if (verb, resource) in self.answers:
            status, body = self.answers[verb, resource][0]
            return web.Response(status=status, text=body)
        if verb == "patch" and request.headers.get("Content-Type") != MERGE_PATCH:
            return _status(415, "the body of the request was in an unknown format")
        return self._answer(self.pods if pods else self.deployments, kind, name, selector, patch)

    def _answer(
        self, things: dict[str, Thing], kind: str, name: str, selector: str, patch: dict[str, Any] | None
    ) -> web.StreamResponse:
        if not name:
            wanted = dict(part.split("=", 1) for part in selector.split(",") if part)
            found = [thing.body() for thing in things.values() if wanted.items() <= thing.labels.items()]
            return web.json_response({"kind": "List", "items": found})
        if name not in things:
            return _status(404, f'{kind} "{name}" not found')
        thing = things[name]
        if patch is not None:
            thing.replicas = patch.get("spec", {}).get("replicas", thing.replicas)
            thing.annotations |= patch.get("metadata", {}).get("annotations", {})
        return web.json_response(thing.body())


def _status(code: int, message: str) -> web.Response:
    body = {"kind": "Status", "status": "Failure", "code": code, "message": message}
    return web.json_response(body, status=code)


@asynccontextmanager
async def running_kubernetes(tls: ssl.SSLContext | None = None) -> AsyncIterator[KubernetesApi]:
    """An API server on a free port for the time of the block."""
    api, app = KubernetesApi(), web.Application()
    app.router.add_route("*", "/{path:.*}", api.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    api.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{runner.addresses[0][1]}"
    yield api
    await runner.cleanup()
