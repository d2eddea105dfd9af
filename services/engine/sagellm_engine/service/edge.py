"""The engine's edge: handlers, sending and the watch over gateways, around one state."""

import asyncio
import time

import structlog

from sagellm_common.bus import Bus
from sagellm_common.errors import SageError
from sagellm_engine.service.handlers import Handlers
from sagellm_engine.service.handoffs import Handoffs
from sagellm_engine.service.metrics import EngineMetrics
from sagellm_engine.service.sending import Sending
from sagellm_engine.service.state import EngineState
from sagellm_engine.service.steps import StepDone, StepThread

log = structlog.get_logger(__name__)
TICK_S = 0.05
CONFIRM_S = 1.0


class EngineEdge:
    """One engine on the bus. `steps` is its running step loop, `made` is where that puts what it makes."""

    def __init__(
        self,
        bus: Bus,
        state: EngineState,
        steps: StepThread,
        made: asyncio.Queue[StepDone],
        metrics: EngineMetrics,
        handoffs: Handoffs | None,
    ) -> None:
        self._bus, self._state, self._handoffs = bus, state, handoffs
        self.handlers = Handlers(bus, state, steps, handoffs)
        self.sending = Sending(bus, state, steps, made, metrics, handoffs)

    async def tick(self) -> None:
        """Report, forget what is old and look after gateways, until cancelled."""
        while True:
            now = time.monotonic()
            await self.sending.report(now)
            self._state.ledger.expire(now)
            if self._handoffs is not None:
                self._handoffs.tick(now)
            await self._drop_lost_gateways(now)
            await asyncio.sleep(TICK_S)

    async def _drop_lost_gateways(self, now: float) -> None:
        gateways = self._state.gateways
        if not gateways.silent(now, self._bus.up_for_s()) or not await self._bus_answers():
            return
        for gateway_id in gateways.silent(now, self._bus.up_for_s()):
            gateways.forget(gateway_id)
            self.sending.forget_gateway(gateway_id)
            keys = self._state.ledger.open_of(gateway_id)
            log.warning("gateway_lost", gateway_id=gateway_id, cancelled=len(keys))
            for key in keys:
                self.handlers.cancel_lost(key)

    async def _bus_answers(self) -> bool:
        """Ask the server for a sign of life: a connection may be dead before anybody notices."""
        try:
            async with asyncio.timeout(CONFIRM_S):
                await self._bus.flush()
        except (SageError, TimeoutError):
            return False
        return True
