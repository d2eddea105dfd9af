"""The guard: ends the children of a launcher that was killed. Runs as a process of its own, on the standard library.

The launcher writes `+<process group>` and `-<process group>` lines to its input; when the input ends, which it does
however the launcher dies, every group that is still listed gets SIGTERM and, after a grace, SIGKILL.
"""

import os
import signal
import sys
import time
from collections.abc import Iterable

GRACE_S = 3.0


def remaining(lines: Iterable[str]) -> set[int]:
    """Return the groups that were added and not removed by the end of the input."""
    groups: set[int] = set()
    for line in lines:
        sign, number = line[:1], line[1:].strip()
        if sign == "+":
            groups.add(int(number))
        elif sign == "-":
            groups.discard(int(number))
    return groups


def send(groups: Iterable[int], number: int) -> set[int]:
    """Send a signal to each group (0 only asks); return those that exist."""
    alive = set()
    for group in groups:
        try:
            os.killpg(group, number)
            alive.add(group)
        except (ProcessLookupError, PermissionError):  # gone, or the number now belongs to somebody else
            continue
    return alive


def main() -> None:
    """Wait for the end of the launcher, then end what it has left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    alive = send(remaining(sys.stdin), signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while alive and time.monotonic() < deadline:
        time.sleep(0.05)
        alive = send(alive, 0)
    send(alive, signal.SIGKILL)


if __name__ == "__main__":
    main()
