"""The shape of the code: small functions, small files, everything annotated, no hidden imports."""

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CODE = [path for folder in ("libs", "services", "simulation") for path in sorted((ROOT / folder).rglob("*.py"))]
ALL = CODE + [path for folder in ("tools", "benchmarks", "training", "tests") for path in (ROOT / folder).rglob("*.py")]

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _functions(paths: list[Path]) -> Iterator[tuple[Path, Function]]:
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield path, node


def _lines(node: Function) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_no_function_is_over_80_lines() -> None:
    """Every function fits on a screen and a half."""
    assert not [(str(p), n.name, _lines(n)) for p, n in _functions(ALL) if _lines(n) > 80]


def test_half_of_the_functions_have_at_most_10_lines() -> None:
    """The median function is small, and nine of ten have at most 30 lines."""
    lengths = sorted(_lines(node) for _, node in _functions(CODE))
    assert statistics.median(lengths) <= 10
    assert lengths[int(len(lengths) * 0.9)] <= 30


def test_no_file_is_over_500_lines() -> None:
    """Every file has at most 500 lines."""
    assert not [(str(path), n) for path in ALL if (n := len(path.read_text().splitlines())) > 500]


def test_nothing_is_unfinished() -> None:
    """No mark of unfinished work stands in the code."""
    marks = ("TO" + "DO", "FIX" + "ME", "XX" + "X:", "HA" + "CK")
    assert not [(str(path), mark) for path in ALL for mark in marks if mark in path.read_text()]


LIGHT = [
    "sagellm_common.bus",
    "sagellm_common.contracts.catalog",
    "sagellm_gateway.__main__",
    "sagellm_scheduler.__main__",
    "sagellm_scheduler.planner.__main__",
    "sagellm_registry.__main__",
    "sagellm",
    "sagellm.cli.main",
]


@pytest.mark.parametrize("module", LIGHT)
def test_light_services_import_neither_torch_nor_transformers(module: str) -> None:
    """Gateway, scheduler, registry, client and the common library start without torch and transformers."""
    assert _loaded(module, {"torch", "transformers"}) == "set()"


def test_the_engine_core_needs_only_the_numeric_libraries() -> None:
    """The engine's core imports neither the bus nor anything that a bare GPU machine lacks."""
    forbidden = {"nats", "pydantic", "structlog", "msgpack", "opentelemetry", "prometheus_client"}
    assert _loaded("sagellm_engine.inprocess", forbidden) == "set()"


def _loaded(module: str, forbidden: set[str]) -> str:
    """Import `module` in a fresh process and return which of the forbidden modules came along."""
    code = f"import sys, {module}; print({forbidden!r} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return result.stdout.strip() or result.stderr
