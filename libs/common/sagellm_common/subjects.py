"""Every subject and bucket on the bus, in one place.

All subjects begin with `sagellm.<deployment>.v1.`, so that two deployments can share a server. A name that goes
into a subject as one token and is not `[A-Za-z0-9_-]+` (model ids have dots and slashes) is base64url-encoded.
"""

import base64
import re
from dataclasses import dataclass

_TOKEN = re.compile(r"[A-Za-z0-9_-]+")


def encode_token(name: str) -> str:
    """Return `name` as one subject token; messages carry the name itself, so nobody decodes it."""
    if _TOKEN.fullmatch(name):
        return name
    return base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")


@dataclass(frozen=True, slots=True)
class Subjects:
    """The subjects of one deployment; who publishes and who answers is said in the architecture document."""

    deployment: str = "default"

    @property
    def prefix(self) -> str:
        return f"sagellm.{encode_token(self.deployment)}.v1"

    # client → gateway (queue group `gateways`)
    @property
    def generate(self) -> str:
        return f"{self.prefix}.generate"

    def cancel(self, request_id: str) -> str:
        """Where the gateway that owns `request_id` takes its cancellation; `*` listens to all."""
        return f"{self.prefix}.cancel.{request_id if request_id == '*' else encode_token(request_id)}"

    # gateway ↔ scheduler
    def submit(self, scheduler_id: str) -> str:
        return f"{self.prefix}.scheduler.{encode_token(scheduler_id)}.submit"

    def gateway_assign(self, gateway_id: str) -> str:
        return f"{self.prefix}.gateway.{encode_token(gateway_id)}.assign"

    def gateway_notify(self, gateway_id: str) -> str:
        return f"{self.prefix}.gateway.{encode_token(gateway_id)}.notify"

    def gateway_open(self, gateway_id: str) -> str:
        return f"{self.prefix}.gateway.{encode_token(gateway_id)}.open"

    def gateway_heartbeat(self, gateway_id: str) -> str:
        """Heartbeat of one gateway; `*` listens to all."""
        return f"{self.prefix}.gateway.{gateway_id if gateway_id == '*' else encode_token(gateway_id)}.heartbeat"

    @property
    def explain(self) -> str:
        return f"{self.prefix}.scheduler.explain"

    @property
    def policy(self) -> str:
        """Read or change the live policy; any scheduler answers, the change travels through the `policy` bucket."""
        return f"{self.prefix}.scheduler.policy"

    # gateway, operator → engine
    def engine_dispatch(self, engine_id: str) -> str:
        return self._engine(engine_id, "dispatch")

    def engine_cancel(self, engine_id: str) -> str:
        return self._engine(engine_id, "cancel")

    def engine_control(self, engine_id: str) -> str:
        return self._engine(engine_id, "control")

    def engine_resend(self, engine_id: str) -> str:
        return self._engine(engine_id, "resend")

    def engine_ack(self, engine_id: str) -> str:
        return self._engine(engine_id, "ack")

    def engine_snapshot(self, engine_id: str) -> str:
        """A scheduler asks for all of an engine's prefix cache."""
        return self._engine(engine_id, "snapshot")

    def engine_lease(self, engine_id: str, verb: str) -> str:
        """Hand-off between engines: `offer`, `taken`, `ready`, `close`, `closed`, and `abort` from a gateway."""
        return self._engine(engine_id, f"lease.{verb}")

    def _engine(self, engine_id: str, verb: str) -> str:
        return f"{self.prefix}.engine.{encode_token(engine_id)}.{verb}"

    # engine → gateway, all
    def tokens(self, gateway_id: str) -> str:
        return f"{self.prefix}.tokens.{encode_token(gateway_id)}"

    def engine_metrics(self, engine_id: str) -> str:
        """Step reports and heartbeat of one engine; `*` listens to all."""
        return f"{self.prefix}.metrics.engine.{engine_id if engine_id == '*' else encode_token(engine_id)}"

    def kv(self, engine_id: str) -> str:
        """Changes of one engine's prefix cache; `*` listens to all."""
        return f"{self.prefix}.kv.{engine_id if engine_id == '*' else encode_token(engine_id)}"

    # observers
    def request_event(self, phase: str) -> str:
        return f"{self.prefix}.events.request.{phase}"

    def model_event(self, model_id: str) -> str:
        return f"{self.prefix}.events.model.{model_id if model_id == '*' else encode_token(model_id)}"

    # registry
    def registry(self, verb: str) -> str:
        return f"{self.prefix}.registry.{verb}"

    # JetStream
    def bucket(self, name: str) -> str:
        """Name of a KV bucket: `engines`, `models`, `leader`, `policy`, `plans`."""
        return f"sagellm_{encode_token(self.deployment)}_{name}"

    def stream(self, name: str) -> str:
        """Name of a stream: `decisions`."""
        return f"sagellm_{encode_token(self.deployment)}_{name}"

    def decision(self, request_id: str) -> str:
        """Subject of one request's decision record in the stream `decisions`; `*` is all of them."""
        return f"{self.prefix}.decision.{request_id if request_id == '*' else encode_token(request_id)}"


GATEWAY_QUEUE = "gateways"
SCHEDULER_QUEUE = "schedulers"
REGISTRY_QUEUE = "registries"
