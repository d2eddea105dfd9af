"""Write which tests show each row of docs/acceptance.md, from their markers: `python -m tools.make_acceptance`."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "acceptance.md"
ROW = re.compile(r"^\| (\d+|defect \d+) \|")


def marked_tests() -> dict[str, list[str]]:
    """Row → the tests that carry its marker, as `file::name`."""
    shown: dict[str, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                for row in _rows(node):
                    shown[row].append(f"{path.relative_to(ROOT / 'tests')}::{node.name}")
    return shown


def _rows(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> Iterator[str]:
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.acceptance":
            for argument in decorator.args:
                yield str(ast.literal_eval(argument))


def render(text: str) -> str:
    """The document with its last column written anew."""
    shown = marked_tests()
    return "\n".join(_refreshed(line, shown) for line in text.splitlines()) + "\n"


def _refreshed(line: str, shown: dict[str, list[str]]) -> str:
    match = ROW.match(line)
    if match is None:
        return line
    cells = re.split(r"(?<!\\)\|", line)
    tests = shown.get(match[1], [])
    cells[-2] = " " + (", ".join(f"`{test}`" for test in tests) or "–") + " "
    return "|".join(cells)


if __name__ == "__main__":
    TARGET.write_text(render(TARGET.read_text()))
    print(f"{len(marked_tests())} rows have tests")
