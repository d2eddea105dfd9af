"""The manifests for Kubernetes: what they say fits the services, the scaler, and the Compose file."""

import copy
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from sagellm_common.settings import ServiceSettings, load_settings
from sagellm_engine.settings import EngineSettings
from sagellm_gateway.settings import GatewaySettings
from sagellm_registry.settings import RegistrySettings
from sagellm_scheduler.planner.kubernetes import MODEL_LABEL, ROLE_LABEL, Cluster, KubernetesScaler, label_of
from sagellm_scheduler.planner.settings import PlannerSettings
from sagellm_scheduler.settings import SchedulerSettings
from support.compose import COMPOSE, dot_env, load
from support.kubernetes_api import NAMESPACE, running_kubernetes
from support.manifests import KUBERNETES, Manifest, container, environment, kustomization, manifests, workloads

ROOT = KUBERNETES.parents[1]
SETTINGS: dict[str, type[ServiceSettings]] = {
    "gateway": GatewaySettings,
    "scheduler": SchedulerSettings,
    "registry": RegistrySettings,
    "planner": PlannerSettings,
    "engine-hybrid": EngineSettings,
    "engine-prefill": EngineSettings,
    "engine-decode": EngineSettings,
}
ENGINES = [name for name in SETTINGS if name.startswith("engine")]
NOT_SETTINGS = {"SAGELLM_CACHE_DIR": "services/engine/sagellm_engine/native/paths.py"}
"""Variables that are read elsewhere than in settings, and where."""


@pytest.fixture
def compose() -> dict[str, Any]:
    """The services of the Compose file."""
    services: dict[str, Any] = load(dot_env())["services"]
    return services


def test_every_service_is_there() -> None:
    """The bus and all services; a workload that is none of them would be forgotten here."""
    assert set(workloads()) == {"nats", *SETTINGS}
    kinds = sorted(one["kind"] for one in manifests() if one["kind"] not in ("Deployment", "StatefulSet"))
    assert kinds == sorted(
        ["Namespace", "Service", "Service", "PersistentVolumeClaim", "ServiceAccount", "Role", "RoleBinding"]
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_every_variable_is_a_setting_with_a_value_that_it_takes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a pod gets is what its service reads: no name is misspelt, and the service would start with it."""
    found = environment(workloads()[name])
    fields = {f"SAGELLM_{field.upper()}" for field in SETTINGS[name].model_fields}
    ours = {variable for variable in found if variable.startswith("SAGELLM_")}
    for variable in ours - fields:
        assert variable in (ROOT / NOT_SETTINGS[variable]).read_text()
    for variable in ours:
        value = found[variable]
        monkeypatch.setenv(variable, value if isinstance(value, str) else "2")
    settings = load_settings(SETTINGS[name])
    assert settings.nats_url == "nats://nats:4222"


@pytest.mark.parametrize("patch", ["planner", "engine-hybrid"])
def test_the_patches_of_the_roles_set_what_is_a_setting(patch: str) -> None:
    """The component changes Deployments and containers that there are, by variables that they read."""
    changed = yaml.safe_load((KUBERNETES / "roles" / f"{patch}.yaml").read_text())
    assert changed["metadata"]["name"] == patch
    assert container(changed)["name"] == container(workloads()[patch])["name"]
    assert set(environment(changed)) <= {f"SAGELLM_{field.upper()}" for field in SETTINGS[patch].model_fields}


@pytest.mark.parametrize("name", ["nats", *SETTINGS])
def test_images_and_commands_are_those_of_compose(name: str, compose: dict[str, Any]) -> None:
    """Both ways of deployment run the same images in the same way."""
    ours, theirs = container(workloads()[name]), compose[name]
    assert ours["image"] == theirs["image"]
    assert ours.get("command", ours.get("args")) == theirs["command"]


@pytest.mark.parametrize("name", ["nats", *SETTINGS])
def test_pods_may_do_no_more_than_in_compose(name: str) -> None:
    """A file system that is read only, no capabilities, no new privileges, no root, and no token but the planner's."""
    pod = workloads()[name]["spec"]["template"]["spec"]
    assert container(workloads()[name])["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["securityContext"]["runAsUser"] == (1000 if name == "nats" else 10001)
    assert pod["automountServiceAccountToken"] is (name == "planner")
    assert pod["enableServiceLinks"] is False


@pytest.mark.parametrize("name", ["nats", *SETTINGS])
def test_pods_are_watched_and_bounded(name: str) -> None:
    """Every container says when it has started, is ready and lives, at a port that it has, and what it needs."""
    made = container(workloads()[name])
    ports = {port["name"]: port["containerPort"] for port in made["ports"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert made[probe]["httpGet"]["port"] in ports
    assert {"cpu", "memory"} <= set(made["resources"]["requests"])
    assert "memory" in made["resources"]["limits"]
    variable = environment(workloads()[name])
    if name != "nats":
        port = variable.get("SAGELLM_PORT", variable.get("SAGELLM_METRICS_PORT"))
        assert int(port) in ports.values()


@pytest.mark.parametrize("name", ["nats", *SETTINGS])
def test_what_is_mounted_is_there(name: str) -> None:
    """Every mount has its volume, and every claim its object; only what must be written can be."""
    pod = workloads()[name]["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    volumes |= {claim["metadata"]["name"]: claim for claim in workloads()[name]["spec"].get("volumeClaimTemplates", [])}
    mounts = container(workloads()[name])["volumeMounts"]
    assert {mount["name"] for mount in mounts} == set(volumes)
    writable = {mount["name"] for mount in mounts if not mount.get("readOnly")}
    expected = {"nats": {"data"}, "registry": {"tmp", "models"}}
    assert writable == expected.get(name, {"tmp", "cache"} if name in ENGINES else {"tmp"})
    claims = {one["metadata"]["name"] for one in manifests() if one["kind"] == "PersistentVolumeClaim"}
    assert {v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v} <= claims


@pytest.mark.parametrize("name", SETTINGS)
def test_each_service_is_a_user_of_the_bus_with_its_own_password(name: str, compose: dict[str, Any]) -> None:
    """The user of nats.conf that the service is in Compose, its inbox, and of all passwords only its own."""
    found, theirs = environment(workloads()[name]), compose[name]["environment"]
    user = found["SAGELLM_NATS_USER"]
    assert user == theirs["SAGELLM_NATS_USER"]
    assert found["SAGELLM_INBOX_PREFIX"] == theirs["SAGELLM_INBOX_PREFIX"]
    key = {"name": "nats-passwords", "key": f"NATS_{user.upper()}_PASSWORD"}
    assert found["SAGELLM_NATS_PASSWORD"] == {"secretKeyRef": key}
    assert not any("secretRef" in source for source in container(workloads()[name])["envFrom"])


def test_no_password_is_in_the_repository() -> None:
    """Passwords come from a file that git ignores; the command that makes it names every user of nats.conf."""
    [secret] = kustomization()["secretGenerator"]
    assert secret == {"name": "nats-passwords", "envs": ["passwords.env"]}
    assert "deploy/kubernetes/passwords.env\n" in (ROOT / ".gitignore").read_text()
    users = re.findall(r"password: \$NATS_(\w+)_PASSWORD", (COMPOSE / "nats" / "nats.conf").read_text())
    [named] = re.findall(r"for user in ([A-Z ]+); do", (KUBERNETES / "kustomization.yaml").read_text())
    assert named.split() == users
    for path in KUBERNETES.rglob("*.yaml"):
        assert not re.search(r"(?i)(password|token): *[\"']?\w{6,}", path.read_text()), path


def test_the_bus_has_the_configuration_of_compose() -> None:
    """The ConfigMap is made of compose/nats/nats.conf itself, and mounted where the arguments look for it."""
    assert kustomization(COMPOSE / "nats")["configMapGenerator"] == [{"name": "nats", "files": ["nats.conf"]}]
    nats = workloads()["nats"]
    [config] = [volume for volume in nats["spec"]["template"]["spec"]["volumes"] if volume["name"] == "config"]
    assert config["configMap"] == {"name": "nats"}
    made = container(nats)
    mounted = {mount["name"]: mount["mountPath"] for mount in made["volumeMounts"]}
    assert (made["args"][1], made["args"][3]) == (f"{mounted['config']}/nats.conf", mounted["data"])


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_is_its_pod_and_has_time_to_finish(name: str) -> None:
    """It is named after its pod, drains for less time than the pod has, and nobody but the planner says how many."""
    engine = workloads()[name]
    found = environment(engine)
    assert found["SAGELLM_ENGINE_ID"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    grace = engine["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert 300 <= float(found["SAGELLM_DRAIN_TIMEOUT_S"]) < grace
    assert "replicas" not in engine["spec"]
    assert engine["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_engines_of_different_roles_differ_in_nothing_else() -> None:
    """Prefill and decode are the hybrid Deployment with another role."""
    hybrid = workloads()["engine-hybrid"]
    for role in ("prefill", "decode"):
        expected = yaml.safe_load(yaml.safe_dump(copy.deepcopy(hybrid)).replace("hybrid", role))
        assert workloads()[f"engine-{role}"] == expected


def test_a_gateway_has_time_to_finish() -> None:
    """Its hook and its own draining end before its pod's grace does."""
    gateway = workloads()["gateway"]
    [_, seconds] = container(gateway)["lifecycle"]["preStop"]["exec"]["command"]
    drain = float(environment(gateway)["SAGELLM_DRAIN_TIMEOUT_S"])
    assert float(seconds) + drain < gateway["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("name", ["nats", *SETTINGS])
def test_selectors_find_their_pods_and_no_others(name: str) -> None:
    """A selector is part of its pods' labels and of no other workload's."""
    every = {other: one["spec"]["template"]["metadata"]["labels"] for other, one in workloads().items()}
    selector = workloads()[name]["spec"]["selector"]["matchLabels"]
    assert [other for other, labels in every.items() if selector.items() <= labels.items()] == [name]
    for service in (one for one in manifests() if one["kind"] == "Service"):
        chosen = [other for other, labels in every.items() if service["spec"]["selector"].items() <= labels.items()]
        assert chosen == [service["metadata"]["name"]]


async def test_the_scaler_finds_each_engine_and_needs_exactly_its_role(tmp_path: Path) -> None:
    """The scaler selects each Deployment by its labels; what it calls to scale is what the planner's Role allows."""
    async with running_kubernetes() as api:
        for name in ENGINES:
            labels = workloads()[name]["metadata"]["labels"]
            assert labels == workloads()[name]["spec"]["template"]["metadata"]["labels"]
            api.deployment(name, labels, 2)
        (tmp_path / "token").write_text(api.token)
        scaler = KubernetesScaler(Cluster(url=api.url, namespace=NAMESPACE, token=tmp_path / "token"))
        for name in ENGINES:
            found = environment(workloads()[name])
            model, role = found["SAGELLM_MODEL"], found["SAGELLM_ENGINE_ROLE"]
            labels = workloads()[name]["metadata"]["labels"]
            assert (labels[MODEL_LABEL], labels[ROLE_LABEL]) == (label_of(model), role)
            assert await scaler.count(model, role) == 2
            await scaler.scale(model, role, 3, {})
            await scaler.scale(model, role, 1, {f"{name}-0": 4})
            assert api.deployments[name].replicas == 1
        await scaler.close()
    called = {(call.group, call.resource, call.verb) for call in api.calls}
    assert called == _allowed("Role")
    scaled = {call.name for call in api.calls if call.resource == "deployments/scale"}
    [scale] = [rule for rule in _object("Role")["rules"] if rule["resources"] == ["deployments/scale"]]
    assert set(scale["resourceNames"]) == scaled == set(ENGINES)


def _object(kind: str) -> Manifest:
    [found] = [one for one in manifests() if one["kind"] == kind]
    return found


def _allowed(kind: str) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for rule in _object(kind)["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_role_is_the_planners_and_nobody_elses() -> None:
    """The binding gives the Role to the account of the planner's pod, of which there is one at a time."""
    binding, planner = _object("RoleBinding"), workloads()["planner"]
    account = _object("ServiceAccount")["metadata"]["name"]
    assert binding["roleRef"] == {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "Role",
        "name": _object("Role")["metadata"]["name"],
    }
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account}]
    assert planner["spec"]["template"]["spec"]["serviceAccountName"] == account
    assert (planner["spec"]["replicas"], planner["spec"]["strategy"]) == (1, {"type": "Recreate"})
    others = [one for name, one in workloads().items() if name != "planner"]
    assert not any("serviceAccountName" in one["spec"]["template"]["spec"] for one in others)
    assert environment(planner)["SAGELLM_SCALER"] == "kubernetes"


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl to build with")
@pytest.mark.parametrize("with_roles", [False, True])
def test_kustomize_builds_it(tmp_path: Path, with_roles: bool) -> None:
    """`kubectl kustomize` makes the objects, nats.conf and the passwords included, with and without the component."""
    for folder in ("deploy", "compose"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    made = tmp_path / "deploy" / "kubernetes"
    (made / "passwords.env").write_text("NATS_PLANNER_PASSWORD=hush\n")
    if with_roles:
        path = made / "kustomization.yaml"
        path.write_text(path.read_text().replace("# components: [roles]", "components: [roles]"))
    built = subprocess.run(["kubectl", "kustomize", str(made)], capture_output=True, text=True, timeout=60, check=False)
    assert built.returncode == 0, built.stderr
    objects = list(yaml.safe_load_all(built.stdout))
    names = {one["metadata"]["name"] for one in objects if one["kind"] == "Deployment"}
    assert names == (set(SETTINGS) if with_roles else set(SETTINGS) - {"engine-prefill", "engine-decode"})
    assert {one["metadata"].get("namespace", "sagellm") for one in objects} == {"sagellm"}
    [config] = [one for one in objects if one["kind"] == "ConfigMap" and one["metadata"]["name"].startswith("nats-")]
    assert config["data"]["nats.conf"] == (COMPOSE / "nats" / "nats.conf").read_text()
    [planner] = [one for one in objects if one["metadata"]["name"] == "planner" and one["kind"] == "Deployment"]
    variables = {one["name"]: one for one in container(planner)["env"]}
    assert variables["SAGELLM_NATS_PASSWORD"]["valueFrom"]["secretKeyRef"]["name"].startswith("nats-passwords-")
    assert ("SAGELLM_PLAN_ROLES" in variables) is with_roles
