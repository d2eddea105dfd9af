"""Engines as Deployments of a Kubernetes cluster, found by their labels and scaled by the scale API."""

import json
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
from pydantic import BaseModel, ValidationError

from sagellm_common.contracts.engines import EngineRole
from sagellm_common.errors import (
    InvalidArgument,
    NotFound,
    PermissionDenied,
    SageError,
    Unauthenticated,
    Unavailable,
)
from sagellm_scheduler.planner.settings import PlannerSettings

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT_S = 10.0
MERGE_PATCH = "application/merge-patch+json"
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
MODEL_LABEL, ROLE_LABEL = "sagellm.io/model", "sagellm.io/role"
LONGEST_LABEL = 63


def label_of(model: str) -> str:
    """Return a model's name as the value of a label: what a label cannot have is a dot, and of a long name the last 63
    characters count."""
    return re.sub(r"[^A-Za-z0-9_.-]", ".", model)[-LONGEST_LABEL:].strip("._-")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """Where the API server is and how we are known to it: `token` and `ca` are files, read when they are needed."""

    url: str
    namespace: str
    token: Path | None = None
    ca: Path | None = None

    @classmethod
    def of(cls, settings: PlannerSettings, environment: Mapping[str, str], account: Path = ACCOUNT) -> Self:
        """The cluster that the settings name, else the one in which this process runs; raises Unavailable outside."""
        if not settings.kubernetes_url:
            return cls.inside(environment, account)
        return cls(
            url=settings.kubernetes_url,
            namespace=settings.kubernetes_namespace,
            token=settings.kubernetes_token,
            ca=settings.kubernetes_ca,
        )

    @classmethod
    def inside(cls, environment: Mapping[str, str], account: Path = ACCOUNT) -> Self:
        """The cluster in which this process runs; raises Unavailable outside of one."""
        host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT", "443")
        if not host:
            raise Unavailable("this process does not run in a Kubernetes cluster: set SAGELLM_KUBERNETES_URL")
        if not (account / "token").is_file():
            raise Unavailable(f"this pod has no token in {account}: give it a ServiceAccount that is mounted")
        host = f"[{host}]" if ":" in host else host
        namespace = _read(account / "namespace", "namespace")
        return cls(url=f"https://{host}:{port}", namespace=namespace, token=account / "token", ca=account / "ca.crt")


class _Metadata(BaseModel):
    name: str
    annotations: dict[str, str] = {}


class _Spec(BaseModel):
    replicas: int = 1


class _Object(BaseModel):
    """What we read of a Deployment or a Pod."""

    metadata: _Metadata
    spec: _Spec = _Spec()


class _Objects(BaseModel):
    items: list[_Object]


class KubernetesScaler:
    """Scales the Deployment with the labels `sagellm.io/model` (see `label_of`) and `sagellm.io/role`, which its pods
    have too.

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
        found = await self._deployment(model, role)
        return 0 if found is None else found.spec.replicas

    async def scale(self, model: str, role: EngineRole, count: int, num_open: Mapping[str, int]) -> None:
        """Set the replicas; the costs of deletion of the pods first, if some are to go."""
        found = await self._deployment(model, role)
        if found is None:
            raise NotFound(f"no Deployment has the labels {_labels(model, role)}: create one to have it scaled")
        if count < found.spec.replicas:
            await self._set_costs(model, role, num_open)
        await self._patch(self._deployments(f"/{found.metadata.name}/scale"), {"spec": {"replicas": count}})

    async def _set_costs(self, model: str, role: EngineRole, num_open: Mapping[str, int]) -> None:
        for pod in await self._list(self._pods(), model, role):
            name, cost = pod.metadata.name, str(num_open.get(pod.metadata.name, 0))
            if pod.metadata.annotations.get(DELETION_COST, "0") == cost:
                continue
            try:
                await self._patch(self._pods(f"/{name}"), {"metadata": {"annotations": {DELETION_COST: cost}}})
            except NotFound:  # it has gone meanwhile
                continue

    async def _deployment(self, model: str, role: EngineRole) -> _Object | None:
        found = await self._list(self._deployments(), model, role)
        if len(found) > 1:
            names = ", ".join(deployment.metadata.name for deployment in found)
            raise InvalidArgument(f"{names} all have the labels {_labels(model, role)}: leave them on one Deployment")
        return found[0] if found else None

    def _deployments(self, rest: str = "") -> str:
        return f"/apis/apps/v1/namespaces/{self._cluster.namespace}/deployments{rest}"

    def _pods(self, rest: str = "") -> str:
        return f"/api/v1/namespaces/{self._cluster.namespace}/pods{rest}"

    async def _list(self, path: str, model: str, role: EngineRole) -> list[_Object]:
        reply = await self._call("GET", path, params={"labelSelector": _labels(model, role)})
        try:
            return _Objects.model_validate_json(reply.content).items
        except ValidationError as error:
            raise Unavailable(
                f"{self._cluster.url} does not answer as Kubernetes does: check SAGELLM_KUBERNETES_URL"
            ) from error

    async def _patch(self, path: str, patch: Mapping[str, Any]) -> None:
        await self._call("PATCH", path, content=json.dumps(patch), headers={"Content-Type": MERGE_PATCH})

    async def _call(self, method: str, path: str, **request: Any) -> httpx.Response:
        headers = {**request.pop("headers", {}), **self._authorization()}
        try:
            reply = await self._client.request(method, path, headers=headers, **request)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unavailable(
                f"the Kubernetes API at {self._cluster.url} cannot be reached ({error!r}): check SAGELLM_KUBERNETES_URL"
            ) from error
        if not reply.is_success:
            raise _refusal(method, path, reply)
        return reply

    def _authorization(self) -> dict[str, str]:
        """Read the token anew: it is renewed at times."""
        if self._cluster.token is None:
            return {}
        return {"Authorization": f"Bearer {_read(self._cluster.token, 'token')}"}


def _labels(model: str, role: EngineRole) -> str:
    return f"{MODEL_LABEL}={label_of(model)},{ROLE_LABEL}={role}"


def _read(path: Path, what: str) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Unavailable(f"the {what} for Kubernetes cannot be read from {path}: {error}") from error


def _trust(ca: Path | None) -> ssl.SSLContext | bool:
    if ca is None:
        return True
    try:
        return ssl.create_default_context(cafile=str(ca))
    except OSError as error:  # ssl.SSLError is one
        raise Unavailable(f"{ca} holds no certificate: correct SAGELLM_KUBERNETES_CA ({error})") from error


def _refusal(method: str, path: str, reply: httpx.Response) -> SageError:
    """Return what a refusal means for us, with what to do."""
    try:
        message = str(reply.json()["message"])
    except (ValueError, KeyError, TypeError):
        message = reply.reason_phrase
    text = f"Kubernetes refuses {method} {path}: {reply.status_code} {message}"
    if reply.status_code == 401:
        return Unauthenticated(f"{text}; its token is not valid: check SAGELLM_KUBERNETES_TOKEN or the ServiceAccount")
    if reply.status_code == 403:
        return PermissionDenied(f"{text}; give it the Role in deploy/kubernetes/planner.yaml")
    if reply.status_code == 404:
        return NotFound(f"{text}; it has gone, or the namespace is another one")
    if reply.status_code in (400, 422):
        return InvalidArgument(text)
    return Unavailable(f"{text}; it is tried again with the next plan")
