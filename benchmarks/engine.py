"""Our engine and others on the same workloads, in turn: `python -m benchmarks.engine [--peer NAME=PYTHON …]`.

A peer runs under the Python of an environment that has it. All of a group are loaded at once and measured one at a
time, several rounds, while the others are stopped (an idle vLLM wakes often enough to cost its neighbour a sixth); a
run during which other processes took the processors is thrown away and repeated.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.engine_report import summary
from benchmarks.goals import RESULTS
from benchmarks.machine import describe, watched
from benchmarks.overhead import BUILTIN, CACHE
from benchmarks.peers.session import WORKLOADS
from benchmarks.shapes import SHAPES, make_model

PEERS = Path(__file__).parent / "peers"
MAX_TRIES = 12
SLOW_S = 60.0
PINNED = {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores"}


@dataclass(frozen=True, slots=True)
class Contender:
    """One engine in one setting. `environment` names the Python that has it; ours is this one."""

    name: str
    group: str
    environment: str
    arguments: tuple[str, ...]


def ours(name: str, group: str, **options: object) -> Contender:
    """Our engine with some options."""
    return Contender(name, group, "sagellm", (json.dumps(options),))


LLAMA_ONLY = ("llamacpp", "ctranslate2")
"""Peers whose scripts convert the Llama shape alone."""

CONTENDERS = (
    ours("sageLLM, bf16", "lossless", dtype="bfloat16"),
    ours("sageLLM, fp32 activations", "lossless", dtype="float32"),
    Contender("OpenVINO, fp32 activations", "lossless", "openvino", ("f32",)),
    Contender("OpenVINO, bf16", "lossless", "openvino", ("bf16",)),
    Contender("vLLM, fp32", "lossless", "vllm", ("float32",)),
    Contender("vLLM, bf16", "lossless", "vllm", ("bfloat16",)),
    Contender("llama.cpp, f32", "lossless", "llamacpp", ("f32",)),
    ours("sageLLM, INT8", "int8", quantization="int8"),
    Contender("OpenVINO, INT8", "int8", "openvino", ("f32", "int8")),
    Contender("vLLM, W8A8", "int8", "vllm", ("float32", "w8a8")),
    Contender("llama.cpp, Q8_0", "int8", "llamacpp", ("q8_0",)),
    Contender("CTranslate2, INT8", "int8", "ctranslate2", ("int8",)),
    ours("sageLLM, INT4", "int4", quantization="int4"),
    Contender("OpenVINO, INT4", "int4", "openvino", ("f32", "int4")),
    Contender("llama.cpp, Q4_0", "int4", "llamacpp", ("q4_0",)),
)


@dataclass
class Session:
    """A running contender, and what it took for each workload."""

    contender: Contender
    process: subprocess.Popen[str]
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in WORKLOADS})

    def measure(self, workload: str) -> None:
        """Run a workload until a run was not disturbed."""
        for _ in range(MAX_TRIES):
            with watched([self.facts["pid"]]) as disturbance:
                seconds = self._run(workload)
            if not disturbance.is_disturbed:
                self.seconds[workload].append(seconds)
                return
            time.sleep(1.0)
        raise SystemExit(f"{self.contender.name}: every run was disturbed; measure on a quiet machine")

    def warm(self, workload: str) -> bool:
        """Run once without keeping the figure; return whether it was so slow that one more run has to do."""
        return self._run(workload) > SLOW_S

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the engine with all processes of its own."""
        os.killpg(self.process.pid, number)

    def _run(self, workload: str) -> float:
        assert self.process.stdin is not None
        self.send(signal.SIGCONT)
        print(workload, file=self.process.stdin, flush=True)
        seconds = float(self.answer()["seconds"])
        self.send(signal.SIGSTOP)
        return seconds

    def answer(self) -> dict[str, Any]:
        """The next JSON line; other lines are the engine's own talk."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        raise SystemExit(f"{self.contender.name} ended with status {self.process.wait()}")


@contextmanager
def started(contender: Contender, python: str, folder: Path, threads: int) -> Iterator[Session]:
    """Start an engine, wait until it is loaded, end it with the block."""
    script = PEERS / f"{contender.environment}_peer.py"
    first, *rest = contender.arguments
    env = {**os.environ, **PINNED, "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(
        [python, str(script), str(folder), first, str(threads), *rest],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=env,
        start_new_session=True,
    )
    session = Session(contender, process)
    try:
        session.facts = session.answer()
        session.send(signal.SIGSTOP)
        yield session
    finally:
        with suppress(ProcessLookupError):
            session.send(signal.SIGKILL)
        process.wait()


def can_run(contender: Contender, shape: str) -> bool:
    """Whether a contender's script takes a shape."""
    return shape == "smol135" or contender.environment not in LLAMA_ONLY


def compare(group: str, pythons: dict[str, str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure all contenders of a group in turn."""
    with ExitStack() as stack:
        sessions = []
        for contender in CONTENDERS:
            if contender.group == group and contender.environment in pythons and can_run(contender, options.shape):
                print(f"  loading {contender.name} …", flush=True)
                python = pythons[contender.environment]
                sessions.append(stack.enter_context(started(contender, python, options.model, options.threads)))
        for workload in WORKLOADS:
            slow = [session for session in sessions if session.warm(workload)]
            for number in range(options.rounds):
                for session in sessions:
                    if number == 0 or session not in slow:
                        session.measure(workload)
            shown = ", ".join(f"{s.contender.name} {rate_of(s, workload):.0f}" for s in sessions)
            print(f"  {workload}: {shown} tokens/s", flush=True)
        return [result_of(session) for session in sessions]


def tokens_of(workload: str) -> int:
    """What a rate counts: generated tokens, in W4 those of the prompts too."""
    number, length, max_tokens = WORKLOADS[workload]
    return number * (length + max_tokens if workload == "W4" else max_tokens)


def rate_of(session: Session, workload: str) -> float:
    """Median tokens a second."""
    return tokens_of(workload) / statistics.median(session.seconds[workload])


def result_of(session: Session) -> dict[str, Any]:
    """What is kept of one contender."""
    rates = {name: [round(tokens_of(name) / s, 1) for s in session.seconds[name]] for name in WORKLOADS}
    medians = {name: round(statistics.median(values), 1) for name, values in rates.items()}
    facts = {key: value for key, value in session.facts.items() if key not in ("ready", "pid")}
    return {"name": session.contender.name, "tokens_per_s": medians, "rounds": rates, **facts}


def best_of(some: dict[str, float], others: dict[str, float]) -> dict[str, float]:
    """The larger rate of each: what the machine showed that it can do."""
    return {name: max(rate, others[name]) for name, rate in some.items()}


def keep(name: str, result: dict[str, Any]) -> None:
    """Write what has been measured so far."""
    RESULTS.mkdir(exist_ok=True)
    kept = {"benchmark": name, "machine": describe(), "result": result}
    (RESULTS / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n")


def main() -> None:
    """Parse the command line, measure, write one file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="smol135")
    parser.add_argument("--models", type=Path, default=CACHE, help="where models of random weights are kept")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--groups", nargs="+", default=["lossless", "int8", "int4"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    options.model = make_model(options.shape, options.models / options.shape, BUILTIN)
    pythons = {"sagellm": sys.executable, **dict(peer.split("=", 1) for peer in options.peer)}
    from benchmarks.limits import measure

    result: dict[str, Any] = {
        "threads": options.threads,
        "rounds": options.rounds,
        "config": json.loads((options.model / "config.json").read_text()),
        "limits": measure(options.threads),
        "groups": {},
    }
    for group in options.groups:
        print(group, flush=True)
        result["groups"][group] = compare(group, pythons, options)
        result["limits"] = best_of(result["limits"], measure(options.threads))
        result["ratios"] = summary(result)
        keep(f"engine_{options.shape}", result)


if __name__ == "__main__":
    main()
