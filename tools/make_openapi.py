"""Write docs/openapi.json, the HTTP API of the gateway: `python -m tools.make_openapi`."""

import json
from pathlib import Path

from prometheus_client import CollectorRegistry

from sagellm_common.contracts.generate import GenerateRequest
from sagellm_common.errors import Unavailable
from sagellm_gateway.generation.api import Generation, ServedModel
from sagellm_gateway.http.app import create_app

TARGET = Path(__file__).parents[1] / "docs" / "openapi.json"


class _NoGateway:
    """Stands where the gateway would; the document does not depend on it."""

    registry = CollectorRegistry()
    draining = False

    async def submit(self, request: GenerateRequest) -> Generation:
        raise Unavailable("this application only describes itself")

    def models(self) -> list[ServedModel]:
        return []

    def ready(self) -> tuple[bool, str]:
        return False, "this application only describes itself"


def render() -> str:
    """The document as JSON."""
    return json.dumps(create_app(_NoGateway()).openapi(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    TARGET.write_text(render())
    print(f"wrote {TARGET.name}")
