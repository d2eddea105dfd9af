"""The hash of a checkpoint's content, remembered so that large files are read once."""

import hashlib
from pathlib import Path

from sagellm_engine.weights.checkpoint import checkpoint_files

BLOCK = 1 << 22


def checkpoint_fingerprint(folder: Path, memory: Path) -> str:
    """Return the SHA-256 of all weight files of a model folder.

    It is kept in `memory` under the files' paths, sizes and times of change, so that the next start need not read them.
    Raises NotFound when there are none, OSError when they cannot be read.
    """
    files = checkpoint_files(folder)
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns, path.stat().st_ino) for path in files]
    note = memory / f"{hashlib.sha256(repr(stats).encode()).hexdigest()[:20]}.sha256"
    if note.is_file() and len(known := note.read_text(encoding="ascii")) == 64:
        return known
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    note.write_text(digest.hexdigest(), encoding="ascii")
    return digest.hexdigest()
