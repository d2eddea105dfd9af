"""A real Prometheus: the one that is installed, else Debian's package unpacked below `.run/`, without root."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from sagellm_common.nats_server import free_port
from sagellm_registry.locks import locked

CACHE = Path(__file__).parents[2] / ".run" / "prometheus"
START_TIMEOUT_S = 30.0


def find_prometheus(program: str = "prometheus") -> Path:
    """Return the path of `prometheus` or `promtool`; skips the test where neither can be had, but never in CI."""
    installed = shutil.which(program)
    if installed:
        return Path(installed)
    unpacked = CACHE / "usr" / "bin" / program
    with locked(CACHE / ".lock"):
        why = "" if unpacked.is_file() else _unpack()
    if why:
        assert os.environ.get("CI") != "true", f"CI needs Prometheus: {why}"
        pytest.skip(f"no Prometheus to be had: {why}")
    return unpacked


def _unpack() -> str:
    """Fetch Debian's package and unpack it; returns what went wrong, empty if nothing."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        return "it is not installed, and this is no Debian system"
    own_lists = ["-o", f"Dir::State::Lists={CACHE / 'lists'}", "-o", f"Dir::Cache={CACHE / 'cache'}"]
    try:
        if _run(["apt-get", "download", "prometheus"]):  # the machine's own package lists may be missing or old
            (CACHE / "lists" / "partial").mkdir(parents=True, exist_ok=True)
            (CACHE / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
            failed = _run(["apt-get", *own_lists, "update"]) or _run(["apt-get", *own_lists, "download", "prometheus"])
            if failed:
                return f"Debian's package cannot be fetched: {failed}"
        return _run(["dpkg", "-x", str(max(CACHE.glob("prometheus_*.deb"))), "."])
    except subprocess.TimeoutExpired:
        return "fetching Debian's package took too long"


def _run(command: list[str]) -> str:
    """Run a command in the cache folder; returns its last words if it failed, else nothing."""
    result = subprocess.run(command, cwd=CACHE, capture_output=True, text=True, timeout=90, check=False)
    return "" if result.returncode == 0 else (result.stderr.strip().splitlines() or ["it failed"])[-1]


class Prometheus:
    """A running Prometheus, asked over its HTTP API."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = httpx.Client(base_url=f"{url}/api/v1", timeout=10, trust_env=False)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the result of an instant query; fails with Prometheus' own words on an error."""
        answer = self._http.get("/query", params={"query": expression}).json()
        assert answer["status"] == "success", f"{expression}: {answer.get('error')}"
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def targets(self) -> dict[str, str]:
        """Return the health of every scraped target, by its job and address."""
        active = self._http.get("/targets").json()["data"]["activeTargets"]
        return {f"{target['labels']['job']} {target['labels']['instance']}": target["health"] for target in active}

    def is_ready(self) -> bool:
        """Whether it answers queries."""
        try:
            return httpx.get(f"{self.url}/-/ready", timeout=2, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def close(self) -> None:
        """Close the connection to it."""
        self._http.close()


@contextmanager
def running_prometheus(config: Path, folder: Path) -> Iterator[Prometheus]:
    """Run Prometheus with `config`, its data and log in `folder`, for the time of the block."""
    program, port = find_prometheus(), free_port()
    command = [str(program), f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    log = folder / "prometheus.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=out, stderr=out, start_new_session=True
        )
    prometheus = Prometheus(f"http://127.0.0.1:{port}")
    try:
        _wait_ready(prometheus, process, log)
        yield prometheus
    finally:
        prometheus.close()
        process.terminate()
        process.wait(10)


def _wait_ready(prometheus: Prometheus, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not prometheus.is_ready():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
