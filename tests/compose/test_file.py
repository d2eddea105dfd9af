"""The Compose file, the Dockerfiles and the configurations beside it, read without running them."""

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from support.compose import COMPOSE, dot_env, load, services
from support.prometheus import find_prometheus
from tools import make_dashboards

SCHEMA = json.loads((Path(__file__).parent / "schema" / "compose-spec.json").read_text())
MODULES = {"planner": "sagellm_scheduler.planner"}
SERVICES = ["gateway", "scheduler", "registry", "engine", "planner"]


@pytest.fixture
def content() -> dict[str, Any]:
    """The Compose file with the variables of its .env."""
    return load(dot_env())


def test_the_file_is_valid_by_the_compose_specification(content: dict[str, Any]) -> None:
    """The file passes the specification's own JSON schema."""
    jsonschema.Draft7Validator(SCHEMA).validate(content)


def test_the_schema_would_find_a_mistake(content: dict[str, Any]) -> None:
    """A misspelt key in a service does not pass the schema."""
    content["services"]["gateway"]["enviroment"] = {}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(SCHEMA).validate(content)


def test_each_profile_starts_the_whole_stack(content: dict[str, Any]) -> None:
    """`pd` has a prefill and a decode engine, `hybrid` one engine; everything else is in both."""
    common = {
        "nats",
        "gateway",
        "scheduler",
        "planner",
        "registry",
        "otel-collector",
        "jaeger",
        "prometheus",
        "grafana",
    }
    assert set(services(content, "pd")) == common | {"engine-prefill", "engine-decode"}
    assert set(services(content, "hybrid")) == common | {"engine-hybrid"}
    assert dot_env()["COMPOSE_PROFILES"] == "pd"


def test_no_password_has_a_default_in_the_file() -> None:
    """Without its variables the file is refused, and says where to set them."""
    with pytest.raises(AssertionError, match=r"compose/\.env"):
        load({})


def test_images_are_pinned_and_ports_stay_on_this_machine(content: dict[str, Any]) -> None:
    """Every image has a version, and nothing listens beyond the loopback address."""
    for name, service in content["services"].items():
        assert re.search(r":v?\d+\.\d+\.\d+(-\w+)?$", service["image"]), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


def test_mounted_files_and_dockerfiles_are_there(content: dict[str, Any]) -> None:
    """Every relative mount and every Dockerfile that the file names is in the repository."""
    for name, service in content["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert not source.startswith(".") or (COMPOSE / source).exists(), name
            assert source.startswith(".") or source in content["volumes"], name
        if "build" in service:
            assert (COMPOSE / service["build"]["context"] / service["build"]["dockerfile"]).is_file(), name


@pytest.mark.parametrize("service", SERVICES)
def test_each_image_has_only_its_extra_and_no_root(service: str) -> None:
    """A Dockerfile installs its own extra, in two stages, runs as a user, and says how to see that it is well."""
    text = (COMPOSE / "docker" / f"{service}.Dockerfile").read_text()
    extras = re.findall(r'pip install -c constraints.txt "\.\[([^"]+)\]"', text)
    assert extras in ([service], ["$EXTRAS"])
    assert "$EXTRAS" not in extras or f"ARG EXTRAS={service},nixl\n" in text
    stages = text.split("\nFROM ")
    assert len(stages) == 3
    assert re.search(r"\nUSER 10001\n", stages[2])
    assert "HEALTHCHECK" in stages[2]
    assert f'CMD ["python", "-m", "{MODULES.get(service, f"sagellm_{service}")}"]' in stages[2]
    assert all(re.match(r"python:\d+\.\d+\.\d+-slim-bookworm", stage) for stage in stages[1:])


def test_every_extra_exists() -> None:
    """The extras that the Dockerfiles install are those of the package."""
    project = tomllib.loads((COMPOSE.parent / "pyproject.toml").read_text())["project"]
    assert set(SERVICES) <= set(project["optional-dependencies"])


def test_every_service_has_a_user_on_the_bus(content: dict[str, Any]) -> None:
    """Each process connects as a user that nats.conf knows, with the inbox prefix that it may subscribe to."""
    conf = (COMPOSE / "nats" / "nats.conf").read_text()
    for name, service in content["services"].items():
        environment = service.get("environment", {})
        if "SAGELLM_NATS_USER" in environment:
            user = environment["SAGELLM_NATS_USER"]
            assert f"user: {user}\n" in conf, name
            assert environment["SAGELLM_INBOX_PREFIX"] == f"_INBOX.{user}"
            assert environment["SAGELLM_NATS_PASSWORD"] == dot_env()[f"NATS_{user.upper()}_PASSWORD"]


def test_every_process_is_scraped(content: dict[str, Any]) -> None:
    """Prometheus asks each of our services, at the port where its metrics are."""
    config = yaml.safe_load((COMPOSE / "prometheus" / "prometheus.yaml").read_text())
    entries = [entry for job in config["scrape_configs"] for entry in job["dns_sd_configs"]]
    scraped = {name: entry["port"] for entry in entries for name in entry["names"]}
    expected = {
        name: int(service["environment"].get("SAGELLM_PORT") or service["environment"]["SAGELLM_METRICS_PORT"])
        for name, service in content["services"].items()
        if "build" in service
    }
    assert scraped == expected


def test_prometheus_accepts_its_configuration() -> None:
    """`promtool check config` passes on the file as it is."""
    command = [str(find_prometheus("promtool")), "check", "config", str(COMPOSE / "prometheus" / "prometheus.yaml")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", sorted(make_dashboards.DASHBOARDS))
def test_the_dashboards_are_current(name: str) -> None:
    """The committed dashboards are what the generator writes."""
    assert (make_dashboards.FOLDER / f"{name}.json").read_text() == make_dashboards.text(name)


def test_no_other_dashboard_lies_about() -> None:
    """Every file in the dashboards' folder comes from the generator."""
    assert {path.stem for path in make_dashboards.FOLDER.iterdir()} == set(make_dashboards.DASHBOARDS)
