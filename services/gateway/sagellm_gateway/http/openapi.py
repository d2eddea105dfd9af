"""The parts of the OpenAPI document that FastAPI cannot see, because generation reads and writes its own bytes."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from sagellm_common.errors import ERRORS
from sagellm_gateway.http.schemas.chat import ChatCompletionChunk, ChatRequest
from sagellm_gateway.http.schemas.completions import CompletionRequest
from sagellm_gateway.http.schemas.service import ErrorBody

_REF = "#/components/schemas/{model}"
_NOT_OF_GENERATION = {"unauthenticated", "permission_denied", "kv_transfer_failed"}
_GENERATION_CODES = tuple(code for code in ERRORS if code not in _NOT_OF_GENERATION)


def error_docs(*codes: str) -> dict[int | str, dict[str, Any]]:
    """`responses` for the given codes of the error tree."""
    return {
        ERRORS[code].http_status: {"model": ErrorBody, "description": f"{code}: {ERRORS[code].__doc__}"}
        for code in codes
    }


def generation_docs(request: type[BaseModel], chunk: type[BaseModel]) -> dict[str, Any]:
    """Arguments of a generation route: its body, both forms of its answer, its errors."""
    event = {"schema": {"$ref": _REF.format(model=chunk.__name__)}}
    body = {"schema": {"$ref": _REF.format(model=request.__name__)}}
    headers = {"x-request-id": {"description": "the request's id", "schema": {"type": "string"}}}
    return {
        "openapi_extra": {
            "requestBody": {"required": True, "content": {"application/json": body}},
            "parameters": [_slo_header(name) for name in ("ttft", "itl", "deadline")],
        },
        "responses": {
            200: {
                "description": "The whole answer, or with `stream` one event per chunk and `data: [DONE]` at the end",
                "content": {"text/event-stream": event},
                "headers": headers,
            },
            **error_docs(*_GENERATION_CODES),
        },
    }


def _slo_header(name: str) -> dict[str, Any]:
    return {
        "name": f"x-slo-{name}-ms",
        "in": "header",
        "required": False,
        "schema": {"type": "number", "exclusiveMinimum": 0},
    }


def complete_openapi(app: FastAPI) -> None:
    """Add the schemas that the routes name and FastAPI has not collected."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            schemas = document["components"]["schemas"]
            for name, schema in _schemas().items():
                schemas.setdefault(name, schema)
            unused = ("HTTPValidationError", "ValidationError")
            document["components"]["schemas"] = {k: v for k, v in sorted(schemas.items()) if k not in unused}
            # FastAPI adds a 422 to every route with a parameter; ours are plain texts, which are always valid.
            for operation in (operation for path in document["paths"].values() for operation in path.values()):
                operation["responses"].pop("422", None)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # the way FastAPI's documentation extends the document


def _schemas() -> dict[str, Any]:
    _, schema = models_json_schema(
        [(ChatRequest, "validation"), (CompletionRequest, "validation"), (ChatCompletionChunk, "serialization")],
        ref_template=_REF,
    )
    schemas: dict[str, Any] = schema["$defs"]
    return schemas
