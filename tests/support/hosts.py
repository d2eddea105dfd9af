"""Hosts in one machine: network namespaces on a bridge, each with an address of its own."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

NETWORK = "10.213.77"
BRIDGE = "sagebr0"


@dataclass(frozen=True, slots=True)
class Host:
    """One namespace; `within` is the command that runs another one there, `device` its network device."""

    name: str
    address: str
    device: str

    @property
    def within(self) -> list[str]:
        return ["ip", "netns", "exec", self.name]


def why_not() -> str | None:
    """Return why there can be no hosts here, or None."""
    if shutil.which("ip") is None:
        return "there is no command `ip`"
    if os.geteuid() != 0:
        return "network namespaces need root"
    tried = subprocess.run(["ip", "netns", "add", "sagetry"], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"network namespaces are not permitted: {tried.stderr.strip()}"
    _ip("netns", "del", "sagetry")
    return None


@contextmanager
def hosts(number: int) -> Iterator[tuple[str, list[Host]]]:
    """Give this machine's address on a bridge, and hosts that are connected to it."""
    made = [Host(f"sagehost{index}", f"{NETWORK}.{index + 2}", f"sageif{index}") for index in range(number)]
    try:
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("addr", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        for host in made:
            _connect(host)
        yield f"{NETWORK}.1", made
    finally:
        for host in made:
            subprocess.run(["ip", "netns", "del", host.name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True, check=False)


def _connect(host: Host) -> None:
    outside = f"{host.device}o"
    _ip("netns", "add", host.name)
    _ip("link", "add", outside, "type", "veth", "peer", "name", host.device)
    _ip("link", "set", host.device, "netns", host.name)
    _ip("link", "set", outside, "master", BRIDGE)
    _ip("link", "set", outside, "up")
    _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", host.device)
    _ip("-n", host.name, "link", "set", host.device, "up")
    _ip("-n", host.name, "link", "set", "lo", "up")


def _ip(*args: str) -> None:
    subprocess.run(["ip", *args], capture_output=True, check=True)
