"""The scaler for Kubernetes against an API server that the test plays, over real HTTP."""

import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sagellm_common.errors import (
    InvalidArgument,
    NotFound,
    PermissionDenied,
    SageError,
    Unauthenticated,
    Unavailable,
)
from sagellm_common.nats_server import free_port
from sagellm_scheduler.planner.kubernetes import DELETION_COST, Cluster, KubernetesScaler, label_of
from sagellm_scheduler.planner.settings import PlannerSettings
from support.kubernetes_api import NAMESPACE, KubernetesApi, running_kubernetes

MODEL = "Qwen/Qwen3-0.6B"
HYBRID = {"sagellm.io/model": "Qwen.Qwen3-0.6B", "sagellm.io/role": "hybrid", "app": "engine"}


@pytest.fixture
async def api() -> AsyncIterator[KubernetesApi]:
    """A cluster with one Deployment of three hybrid engines, and one of another model."""
    async with running_kubernetes() as running:
        running.deployment("engine-hybrid", HYBRID, 3)
        running.deployment("other", {**HYBRID, "sagellm.io/model": "other"}, 5)
        yield running


@pytest.fixture
async def scaler(api: KubernetesApi, tmp_path: Path) -> AsyncIterator[KubernetesScaler]:
    """A scaler with the valid token in a file."""
    token = tmp_path / "token"
    token.write_text(f"{api.token}\n")
    made = KubernetesScaler(Cluster(url=api.url, namespace=NAMESPACE, token=token))
    yield made
    await made.close()


async def test_engines_are_counted_by_the_labels_of_their_deployment(
    api: KubernetesApi, scaler: KubernetesScaler
) -> None:
    """The replicas of the one Deployment with the labels of model and role count; a role without one has none."""
    assert await scaler.count(MODEL, "hybrid") == 3
    assert await scaler.count(MODEL, "prefill") == 0
    assert await scaler.count("other", "hybrid") == 5
    assert [call.selector for call in api.calls][:2] == [
        "sagellm.io/model=Qwen.Qwen3-0.6B,sagellm.io/role=hybrid",
        "sagellm.io/model=Qwen.Qwen3-0.6B,sagellm.io/role=prefill",
    ]


async def test_more_engines_are_one_patch_and_no_pod_is_touched(api: KubernetesApi, scaler: KubernetesScaler) -> None:
    """Growth sets the replicas by a merge patch of the scale, and nothing else: the server refuses other types."""
    await scaler.scale(MODEL, "hybrid", 5, {"engine-hybrid-0": 9})
    assert await scaler.count(MODEL, "hybrid") == 5
    assert api.patches("deployments/scale") == [("engine-hybrid", {"spec": {"replicas": 5}})]
    assert api.patches("pods") == []
    assert api.deployments["other"].replicas == 5


async def test_the_pods_with_the_fewest_requests_cost_the_least_to_delete(
    api: KubernetesApi, scaler: KubernetesScaler
) -> None:
    """Before fewer replicas are asked for, each pod's open requests become its cost; what is right already stays."""
    api.pods["engine-hybrid-2"].annotations[DELETION_COST] = "4"
    await scaler.scale(MODEL, "hybrid", 1, {"engine-hybrid-0": 7, "engine-hybrid-2": 4, "other-0": 3})
    costs = {name: pod.annotations.get(DELETION_COST) for name, pod in api.pods.items()}
    assert costs["engine-hybrid-0"] == "7"
    assert costs["engine-hybrid-1"] is None  # none is 0
    assert costs["engine-hybrid-2"] == "4"
    assert costs["other-0"] is None
    assert [call.resource for call in api.calls if call.verb == "patch"] == ["pods", "deployments/scale"]
    await scaler.scale(MODEL, "hybrid", 0, {})
    assert api.pods["engine-hybrid-0"].annotations[DELETION_COST] == "0"


async def test_a_pod_that_has_gone_meanwhile_does_not_stop_it(api: KubernetesApi, scaler: KubernetesScaler) -> None:
    """A pod between the list and its patch may end; the Deployment is scaled all the same."""
    with api.answering("patch", "pods", 404, "{}"):
        await scaler.scale(MODEL, "hybrid", 2, {"engine-hybrid-0": 1})
    assert api.deployments["engine-hybrid"].replicas == 2


async def test_without_a_deployment_it_says_which_labels_one_needs(scaler: KubernetesScaler) -> None:
    """Nothing to scale is NotFound, with the labels that a Deployment would need."""
    with pytest.raises(NotFound, match=r"sagellm.io/model=Qwen.Qwen3-0.6B,sagellm.io/role=decode: create one"):
        await scaler.scale(MODEL, "decode", 1, {})


async def test_two_deployments_of_the_same_labels_are_refused(api: KubernetesApi, scaler: KubernetesScaler) -> None:
    """Which of two should be scaled cannot be known: both are named."""
    api.deployment("twin", HYBRID)
    with pytest.raises(InvalidArgument, match="engine-hybrid, twin all have the labels"):
        await scaler.scale(MODEL, "hybrid", 1, {})


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (401, Unauthenticated, "SAGELLM_KUBERNETES_TOKEN"),
        (403, PermissionDenied, "deploy/kubernetes/planner.yaml"),
        (404, NotFound, "the namespace is another one"),
        (409, Unavailable, "tried again with the next plan"),
        (422, InvalidArgument, "because it says so"),
        (500, Unavailable, "tried again with the next plan"),
        (302, Unavailable, "302"),
    ],
)
async def test_refusals_are_typed_and_say_what_to_do(
    api: KubernetesApi, scaler: KubernetesScaler, status: int, error: type[SageError], words: str
) -> None:
    """Each status becomes the error of our tree that fits, with the server's own words and what to do."""
    with (
        api.answering("patch", "deployments/scale", status, '{"message": "because it says so"}'),
        pytest.raises(error, match=words) as caught,
    ):
        await scaler.scale(MODEL, "hybrid", 4, {})
    assert type(caught.value) is error
    assert f"{status} because it says so" in caught.value.message


@pytest.mark.parametrize("body", ["", "<html>hello</html>", "[]", '{"items": 3}', '{"items": [{"spec": {}}]}'])
async def test_garbage_is_unavailable(api: KubernetesApi, scaler: KubernetesScaler, body: str) -> None:
    """What is no answer of Kubernetes is said to be none, with the setting to check."""
    with (
        api.answering("list", "deployments", 200, body),
        pytest.raises(Unavailable, match="does not answer as Kubernetes does: check SAGELLM_KUBERNETES_URL"),
    ):
        await scaler.count(MODEL, "hybrid")


async def test_a_refusal_that_is_no_json_is_still_typed(api: KubernetesApi, scaler: KubernetesScaler) -> None:
    """A proxy between us may answer with a page: the status decides."""
    with api.answering("list", "deployments", 503, "<html>"), pytest.raises(Unavailable, match="503 Service"):
        await scaler.count(MODEL, "hybrid")


async def test_a_closed_port_is_unavailable(tmp_path: Path) -> None:
    """Where nobody listens, the error names the URL."""
    url = f"http://127.0.0.1:{free_port()}"
    scaler = KubernetesScaler(Cluster(url=url, namespace=NAMESPACE))
    with pytest.raises(Unavailable, match=f"{url} cannot be reached"):
        await scaler.count(MODEL, "hybrid")
    await scaler.close()


async def test_a_renewed_token_is_taken(api: KubernetesApi, scaler: KubernetesScaler, tmp_path: Path) -> None:
    """Kubernetes renews the token in its file: the next call has the new one; an old or unreadable one is said."""
    assert await scaler.count(MODEL, "hybrid") == 3
    api.token = "second"
    with pytest.raises(Unauthenticated, match="its token is not valid"):
        await scaler.count(MODEL, "hybrid")
    (tmp_path / "token").write_text("second")
    assert await scaler.count(MODEL, "hybrid") == 3
    (tmp_path / "token").unlink()
    with pytest.raises(Unavailable, match=r"the token for Kubernetes cannot be read from .*token"):
        await scaler.count(MODEL, "hybrid")


@pytest.fixture
def account(tmp_path: Path) -> Path:
    """The files that Kubernetes mounts into a pod, with a certificate of our own."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path / "account"
    folder.mkdir()
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"]
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(folder / "ca.crt")]
    subprocess.run(
        [*command, "-addext", "subjectAltName=IP:127.0.0.1", *files], check=True, capture_output=True, timeout=30
    )
    (folder / "token").write_text("first")
    (folder / "namespace").write_text(f"{NAMESPACE}\n")
    return folder


async def test_the_cluster_is_found_from_inside(account: Path, tmp_path: Path) -> None:
    """Environment and account files of a pod lead to the API over TLS, which only the mounted CA makes trustworthy."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(account / "ca.crt", tmp_path / "key.pem")
    async with running_kubernetes(tls) as api:
        api.deployment("engine-hybrid", HYBRID, 2)
        host, port = api.url.removeprefix("https://").split(":")
        environment = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
        cluster = Cluster.of(PlannerSettings(), environment, account)
        assert cluster == Cluster(url=api.url, namespace=NAMESPACE, token=account / "token", ca=account / "ca.crt")
        scaler = KubernetesScaler(cluster)
        assert await scaler.count(MODEL, "hybrid") == 2
        await scaler.close()
        stranger = KubernetesScaler(Cluster(url=api.url, namespace=NAMESPACE, token=account / "token"))
        with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
            await stranger.count(MODEL, "hybrid")
        await stranger.close()


def test_outside_of_a_cluster_it_says_what_to_set(tmp_path: Path) -> None:
    """Without the environment of a pod, without its account, and with a CA that is none: one sentence each."""
    with pytest.raises(Unavailable, match="set SAGELLM_KUBERNETES_URL"):
        Cluster.inside({}, tmp_path)
    with pytest.raises(Unavailable, match="give it a ServiceAccount that is mounted"):
        Cluster.inside({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, tmp_path)
    (tmp_path / "ca.crt").write_text("no certificate")
    for ca in (tmp_path / "ca.crt", tmp_path / "nothing"):
        with pytest.raises(Unavailable, match="correct SAGELLM_KUBERNETES_CA"):
            KubernetesScaler(Cluster(url="https://10.0.0.1", namespace="n", ca=ca))
    (tmp_path / "token").write_text("t")
    (tmp_path / "namespace").write_text("n")
    assert Cluster.inside({"KUBERNETES_SERVICE_HOST": "fd00::1"}, tmp_path).url == "https://[fd00::1]:443"


def test_a_cluster_can_be_named(tmp_path: Path) -> None:
    """With a URL in the settings, namespace, token and CA come from them too."""
    settings = PlannerSettings(
        kubernetes_url="https://10.0.0.1:6443", kubernetes_namespace="n", kubernetes_token=tmp_path / "token"
    )
    assert Cluster.of(settings, {}) == Cluster(
        url="https://10.0.0.1:6443", namespace="n", token=tmp_path / "token", ca=None
    )


@pytest.mark.parametrize(
    ("model", "label"),
    [
        ("sage-tiny", "sage-tiny"),
        ("Qwen/Qwen3-0.6B", "Qwen.Qwen3-0.6B"),
        ("/-odd name_", "odd.name"),
        ("org/" + "x" * 80, "x" * 63),
    ],
)
def test_a_models_label_is_what_kubernetes_allows(model: str, label: str) -> None:
    """A label has at most 63 of few characters, and letters or digits at both ends."""
    assert label_of(model) == label
