"""What the parts of a running engine share: all of it belongs to the event loop."""

import asyncio
from typing import Literal

from sagellm_common.contracts.engines import EngineRegistration
from sagellm_engine.core.types import ModelInfo
from sagellm_engine.service.assignments import Assignments
from sagellm_engine.service.gateways import Gateways
from sagellm_engine.service.ledger import Ledger
from sagellm_engine.service.prefixes import Prefixes
from sagellm_engine.service.reports import Reporter
from sagellm_engine.service.steps import Loaded

Phase = Literal["ready", "draining", "stopped"]


class EngineState:
    """Requests, gateways, assignments and reports of one incarnation. `identity` is its registration, never changed."""

    def __init__(
        self, identity: EngineRegistration, loaded: Loaded, *, max_open_choices: int, gateway_timeout_s: float
    ) -> None:
        self.identity = identity
        self.info: ModelInfo = loaded.info
        self.phase: Phase = "ready"
        self.phase_changed = asyncio.Event()
        self.ledger = Ledger(max_open_choices)
        self.assignments = Assignments()
        self.gateways = Gateways(gateway_timeout_s)
        self.prefixes = Prefixes(identity.engine_id, identity.incarnation)
        self.reporter = Reporter(identity.engine_id, identity.incarnation, identity.heartbeat_s, loaded.gauges)
        self.reporter.kv_number = lambda: self.prefixes.number

    def drain(self) -> None:
        """Refuse new requests; what runs goes on."""
        self._change("ready", "draining")

    def resume(self) -> None:
        """Take new requests again."""
        self._change("draining", "ready")

    def _change(self, before: Phase, after: Phase) -> None:
        if self.phase == before:
            self.phase = after
            self.phase_changed.set()
