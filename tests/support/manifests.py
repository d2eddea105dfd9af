"""What the manifests of deploy/kubernetes say, read as kustomize reads them, as far as tests need it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

KUBERNETES = Path(__file__).parents[2] / "deploy" / "kubernetes"
Manifest = dict[str, Any]


def kustomization(folder: Path = KUBERNETES) -> Manifest:
    """Return the kustomization of a folder."""
    content: Manifest = yaml.safe_load((folder / "kustomization.yaml").read_text())
    return content


def manifests(folder: Path = KUBERNETES) -> Iterator[Manifest]:
    """All objects that a kustomization names, without those that it generates."""
    for name in kustomization(folder).get("resources", []):
        path = folder / name
        yield from manifests(path) if path.is_dir() else yaml.safe_load_all(path.read_text())


def workloads() -> dict[str, Manifest]:
    """Every Deployment and StatefulSet by name, those of the roles component too."""
    found = [*manifests(), *manifests(KUBERNETES / "roles")]
    return {one["metadata"]["name"]: one for one in found if one["kind"] in ("Deployment", "StatefulSet")}


def container(workload: Manifest) -> Manifest:
    """Return the one container of a workload."""
    [only] = workload["spec"]["template"]["spec"]["containers"]
    return dict(only)


def environment(workload: Manifest) -> dict[str, Any]:
    """Return the variables of a container: values as they are, references as what they refer to."""
    found: dict[str, Any] = {}
    made = {one["name"]: one["literals"] for one in kustomization().get("configMapGenerator", [])}
    for source in container(workload).get("envFrom", []):
        name = source.get("configMapRef", {}).get("name", "")
        found |= dict(literal.split("=", 1) for literal in made.get(name, []))
    for variable in container(workload).get("env", []):
        found[variable["name"]] = variable.get("value", variable.get("valueFrom"))
    return found
