"""NIXL whose reads wait, or fail, as long as a test wants: by files in the folder that HANDOFF_GATE names."""

import os
from collections.abc import Sequence
from pathlib import Path

from sagellm_engine.transfer.layout import Region
from sagellm_engine.transfer.nixl_transport import NixlTransport
from sagellm_engine.transfer.transport import Memory


class Gate:
    """The folder, and what a test puts into it."""

    def __init__(self, folder: Path) -> None:
        self.hold, self.fail = folder / "hold", folder / "fail"

    def open(self) -> None:
        """Let everything through."""
        self.hold.unlink(missing_ok=True)
        self.fail.unlink(missing_ok=True)


class GatedNixl(NixlTransport):
    """A read that is asked for is posted when `hold` is gone, and fails while `fail` is there."""

    def __init__(self) -> None:
        super().__init__()
        self._gate = Gate(Path(os.environ["HANDOFF_GATE"]))
        self._asked: list[tuple[int, bytes, str, Sequence[Region], Memory | None]] = []

    def start(self, handle: int, agent: bytes, theirs: str, regions: Sequence[Region], scratch: Memory | None) -> None:
        """Keep a read."""
        self._asked.append((handle, agent, theirs, regions, scratch))

    def poll(self) -> list[tuple[int, bool]]:
        """Post what was kept, if the gate is open."""
        failed: list[tuple[int, bool]] = []
        if not self._gate.hold.exists():
            asked, self._asked = self._asked, []
            for read in asked:
                if self._gate.fail.exists():
                    failed.append((read[0], False))
                else:
                    super().start(*read)
        return failed + super().poll()
