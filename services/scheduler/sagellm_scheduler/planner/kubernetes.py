"""Engines as Deployments of a Kubernetes cluster, found by their labels and scaled by the scale API."""

import asyncio
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from sagellm_common.contracts.engines import EngineRole
from sagellm_common.errors import NotFound, PermissionDenied, SageError, Unavailable
from sagellm_common.subjects import encode_token

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT_S = 10.0
MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
MODEL_LABEL, ROLE_LABEL = "sagellm.io/model", "sagellm.io/role"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """Where the API server is and how we are known to it: `token` and `ca` are files, read when they are needed."""

    url: str
    namespace: str
    token: Path | None = None
    ca: Path | None = None

    @classmethod
    def inside(cls, environment: Mapping[str, str], account: Path = ACCOUNT) -> "Cluster":
        """The cluster in which this process runs; raises Unavailable outside of one."""
        host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT", "443")
        if not host or not (account / "token").is_file():
            raise Unavailable("this process does not run in a Kubernetes cluster; set SAGELLM_KUBERNETES_URL")
        host = f"[{host}]" if ":" in host else host
        namespace = (account / "namespace").read_text().strip()
        return cls(url=f"https://{host}:{port}", namespace=namespace, token=account / "token", ca=account / "ca.crt")


class KubernetesScaler:
    """Scales the Deployment with the labels `sagellm.io/model` (encoded as in subjects) and `sagellm.io/role`.

    Pods are named after their engines (`SAGELLM_ENGINE_ID` from `metadata.name`); those with the fewest requests are
    ended first. An engine drains on SIGTERM, as long as its pod's grace period lasts.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._client = httpx.AsyncClient(base_url=cluster.url, timeout=TIMEOUT_S, verify=_trust(cluster.ca))

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()

    async def count(self, model: str, role: EngineRole) -> int:
        """Return the replicas asked for; 0 if there is no Deployment for the role."""
        name = await self._deployment(model, role)
        return 0 if name is None else int((await self._call("GET", self._scale_of(name)))["spec"].get("replicas", 0))

    async def scale(self, model: str, role: EngineRole, count: int, num_open: Mapping[str, int]) -> None:
        """Set the replicas; the costs of deletion of the pods first, if some are to go."""
        name = await self._deployment(model, role)
        if name is None:
            raise NotFound(f"no Deployment has the labels {self._labels(model, role)}: create one to have it scaled")
        scale = await self._call("GET", self._scale_of(name))
        if count < int(scale["spec"].get("replicas", 0)):
            await self._set_costs(model, role, num_open)
        await self._call("PATCH", self._scale_of(name), {"spec": {"replicas": count}})

    async def _set_costs(self, model: str, role: EngineRole, num_open: Mapping[str, int]) -> None:
        pods = await self._call("GET", self._core("pods"), labels=self._labels(model, role))
        names = [str(pod["metadata"]["name"]) for pod in pods["items"]]
        await asyncio.gather(*(self._set_cost(name, num_open.get(name, 0)) for name in names))

    async def _set_cost(self, name: str, cost: int) -> None:
        await self._call("PATCH", self._core(f"pods/{name}"), {"metadata": {"annotations": {DELETION_COST: str(cost)}}})

    async def _deployment(self, model: str, role: EngineRole) -> str | None:
        path = f"/apis/apps/v1/namespaces/{self._cluster.namespace}/deployments"
        items = (await self._call("GET", path, labels=self._labels(model, role)))["items"]
        return str(items[0]["metadata"]["name"]) if items else None

    def _labels(self, model: str, role: EngineRole) -> str:
        return f"{MODEL_LABEL}={encode_token(model)},{ROLE_LABEL}={role}"

    def _scale_of(self, name: str) -> str:
        return f"/apis/apps/v1/namespaces/{self._cluster.namespace}/deployments/{name}/scale"

    def _core(self, path: str) -> str:
        return f"/api/v1/namespaces/{self._cluster.namespace}/{path}"

    async def _call(
        self, method: str, path: str, patch: Mapping[str, Any] | None = None, *, labels: str = ""
    ) -> dict[str, Any]:
        headers = {} if patch is None else dict(MERGE_PATCH)
        if self._cluster.token is not None:
            headers["Authorization"] = f"Bearer {self._cluster.token.read_text().strip()}"  # it is renewed at times
        try:
            reply = await self._client.request(
                method,
                path,
                params={"labelSelector": labels} if labels else None,
                content=None if patch is None else json.dumps(patch),
                headers=headers,
            )
        except httpx.HTTPError as error:
            raise Unavailable(f"the Kubernetes API at {self._cluster.url} cannot be reached: {error!r}") from error
        if reply.is_error:
            raise _refusal(method, path, reply)
        body: dict[str, Any] = reply.json()
        return body


def _trust(ca: Path | None) -> ssl.SSLContext | bool:
    return True if ca is None else ssl.create_default_context(cafile=str(ca))


def _refusal(method: str, path: str, reply: httpx.Response) -> SageError:
    try:
        message = reply.json()["message"]
    except (ValueError, KeyError, TypeError):
        message = reply.reason_phrase
    text = f"Kubernetes refuses {method} {path}: {reply.status_code} {message}"
    if reply.status_code in (401, 403):
        return PermissionDenied(f"{text}; see the Role in deploy/kubernetes/planner.yaml")
    return NotFound(text) if reply.status_code == 404 else Unavailable(text)
