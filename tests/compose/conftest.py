"""The stack of compose.yaml for the tests of this folder, and a Prometheus that scrapes it."""

import json
from collections.abc import Iterator

import pytest
import yaml

from support.compose import COMPOSE, dot_env
from support.compose_stack import ComposeStack, running_stack
from support.prometheus import Prometheus, running_prometheus

SCRAPE_INTERVAL = "500ms"


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeStack]:
    """The stack of the default profile, ready to answer; one for all tests of this folder."""
    with running_stack(tmp_path_factory.mktemp("compose"), dot_env()["COMPOSE_PROFILES"], {}) as started:
        yield started


@pytest.fixture(scope="session")
def prometheus(stack: ComposeStack) -> Iterator[Prometheus]:
    """A real Prometheus with compose's configuration, its service names replaced by the processes' addresses."""
    config = yaml.safe_load((COMPOSE / "prometheus" / "prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": SCRAPE_INTERVAL, "scrape_timeout": SCRAPE_INTERVAL}
    for job in config["scrape_configs"]:
        names = [name for entry in job.pop("dns_sd_configs") for name in entry["names"]]
        addresses = [f"127.0.0.1:{stack.ports[name]}" for name in names if name in stack.ports]
        job["static_configs"] = [{"targets": addresses}]
    path = stack.folder / "prometheus.json"
    path.write_text(json.dumps(config))
    with running_prometheus(path, stack.folder) as running:
        yield running
