"""The bus: one NATS connection per process, with typed messages, checked payloads and counted drops."""

from sagellm_common.bus.buckets import Bucket
from sagellm_common.bus.connection import Bus, BusState
from sagellm_common.bus.messages import Limits, Received
from sagellm_common.bus.service import MicroService

__all__ = ["Bucket", "Bus", "BusState", "Limits", "MicroService", "Received"]
