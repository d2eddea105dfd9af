"""Endpoints beside generation: models, health, metrics."""

from typing import Any

from fastapi import FastAPI
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sagellm_common.errors import NotFound
from sagellm_gateway.generation.api import Gateway, ServedModel
from sagellm_gateway.http.openapi import error_docs
from sagellm_gateway.http.schemas.service import Health, ModelBody, ModelList


def add_service_routes(app: FastAPI, gateway: Gateway) -> None:
    """Add `/v1/models`, `/health/...` and `/metrics`."""
    _add_models(app, gateway)
    _add_health(app, gateway)
    _add_metrics(app, gateway)


def _add_models(app: FastAPI, gateway: Gateway) -> None:
    @app.get("/v1/models", tags=["models"])
    async def list_models() -> ModelList:
        """List the models that can be asked for now."""
        return ModelList(data=[_model(model) for model in gateway.models()])

    @app.get("/v1/models/{model_id:path}", response_model=ModelBody, responses=error_docs("not_found"), tags=["models"])
    async def get_model(model_id: str) -> ModelBody:
        """Describe one model; its id may have slashes."""
        for model in gateway.models():
            if model.id == model_id:
                return _model(model)
        served = ", ".join(model.id for model in gateway.models()) or "none"
        raise NotFound(f"no engine serves the model {model_id!r}; served are: {served}", param="model")


def _model(model: ServedModel) -> ModelBody:
    return ModelBody(id=model.id, created=model.created, max_model_len=model.max_model_len)


def _add_health(app: FastAPI, gateway: Gateway) -> None:
    @app.get("/health/live", tags=["health"])
    async def live() -> Health:
        """Answer while the gateway's event loop runs."""
        return Health(status="ok")

    unavailable: dict[int | str, dict[str, Any]] = {
        503: {"model": Health, "description": "Requests cannot be served; the reason says why"}
    }

    @app.get("/health/ready", response_model=Health, responses=unavailable, tags=["health"])
    async def ready() -> Response:
        """Say whether requests can be served."""
        is_ready, reason = gateway.ready()
        health = Health(status="ok" if is_ready else "unavailable", reason=reason)
        return JSONResponse(health.model_dump(), status_code=200 if is_ready else 503)


def _add_metrics(app: FastAPI, gateway: Gateway) -> None:
    text: dict[int | str, dict[str, Any]] = {
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus text format"}
    }

    @app.get("/metrics", response_class=Response, responses=text, tags=["metrics"])
    def metrics(request: Request) -> Response:
        """Give all metrics to Prometheus."""
        encoder, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encoder(gateway.registry), headers={"content-type": content_type})
