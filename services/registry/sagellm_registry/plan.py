"""What to download of a repository: the files that serving needs, with their sizes and hashes."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from sagellm_common.errors import InvalidArgument, Unavailable

_PATTERNS = ("*.safetensors", "*.json", "*.jinja", "tokenizer*", "*.model", "merges.txt", "vocab.txt")
_MODULES = ("*_Pooling/*", "*_Dense/*", "*_Normalize/*")  # of sentence-transformers
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a repository: `sha256` is set for large files, `git_sha1` is the git object id of small ones."""

    name: str
    size: int
    git_sha1: str
    sha256: str | None

    def verify(self, path: Path) -> None:
        """Raise Unavailable if the file at `path` is not this one; makes its bytes durable."""
        if path.stat().st_size != self.size:
            raise Unavailable(f"{self.name} has {path.stat().st_size} bytes instead of {self.size}")
        expected = self.sha256 or self.git_sha1
        digest = (
            hashlib.sha256() if self.sha256 else hashlib.sha1(f"blob {self.size}\0".encode(), usedforsecurity=False)
        )
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
            os.fsync(file.fileno())
        if digest.hexdigest() != expected:
            raise Unavailable(f"{self.name} does not have the hash {expected} that the hub announced")


@dataclass(frozen=True, slots=True)
class Plan:
    """The files to fetch at one commit."""

    commit: str
    files: tuple[HubFile, ...]

    @property
    def total_bytes(self) -> int:
        return sum(file.size for file in self.files)


def make_plan(model_id: str, commit: str, listed: Iterable[HubFile]) -> Plan:
    """Choose what serving needs; raises InvalidArgument for a repository that cannot be served."""
    files = tuple(file for file in listed if _is_safe(model_id, file.name))
    chosen = [file for file in files if _is_wanted(file.name)]
    weights = [file.name for file in chosen if file.name.endswith(".safetensors")]
    if not weights:
        pickles = [file.name for file in files if file.name.endswith(_PICKLES)]
        reason = f"only pickled weights ({pickles[0]}), which can run code when loaded" if pickles else "no weights"
        raise InvalidArgument(f"Model '{model_id}' has {reason}: sageLLM loads safetensors only", param="model_id")
    if not any(file.name == "config.json" for file in chosen):
        raise InvalidArgument(f"Model '{model_id}' has no config.json: it cannot be served", param="model_id")
    if not all(name.startswith("consolidated") for name in weights):
        chosen = [file for file in chosen if not fnmatch(file.name, "consolidated*.safetensors")]
    return Plan(commit, tuple(chosen))


def _is_safe(model_id: str, name: str) -> bool:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise InvalidArgument(f"Model '{model_id}' has a file outside its folder: {name[:80]!r}", param="model_id")
    return True


def _is_wanted(name: str) -> bool:
    if "/" in name:
        return any(fnmatch(name, pattern) for pattern in _MODULES) and name.endswith((".json", ".safetensors"))
    return any(fnmatch(name, pattern) for pattern in _PATTERNS) and not name.endswith(_PICKLES)
