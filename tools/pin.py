"""Write constraints.txt: the exact versions in this environment of everything that sageLLM needs.

.venv/bin/python tools/pin.py            write it
.venv/bin/python tools/pin.py --check    end with 1 if it is not what would be written
"""

import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

TARGET = Path(__file__).resolve().parent.parent / "constraints.txt"
HEADER = "# The versions that sageLLM is tested with. Made by `.venv/bin/python tools/pin.py`.\n"
NOT_PINNED = frozenset({"pip", "setuptools", "sagellm"})


def closure(root: Requirement) -> dict[str, str]:
    """Return name and version of every installed distribution that `root` needs, extras counted."""
    seen: set[tuple[str, frozenset[str]]] = set()
    versions: dict[str, str] = {}
    waiting = [root]
    while waiting:
        requirement = waiting.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue  # for another platform, or an optional part that is not installed
        versions[name] = Version(found.version).public
        waiting += [child for text in found.requires or () if _applies(child := Requirement(text), extras)]
    return versions


def _applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    if requirement.marker is None:
        return True
    return any(requirement.marker.evaluate({"extra": extra}) for extra in extras or {""})


def pins() -> str:
    """Return the text of constraints.txt."""
    versions = closure(Requirement("sagellm[dev]"))
    lines = [f"{name}=={version}\n" for name, version in sorted(versions.items()) if name not in NOT_PINNED]
    return HEADER + "".join(lines)


def main() -> int:
    """Write or check; returns the exit code."""
    text = pins()
    if "--check" in sys.argv[1:]:
        return 0 if TARGET.read_text() == text else 1
    TARGET.write_text(text)
    print(f"{TARGET.name}: {len(text.splitlines()) - 1} pins")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
