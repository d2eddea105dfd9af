"""The FastAPI application of the gateway."""

from collections.abc import Callable, Mapping
from functools import partial

import structlog
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sagellm_common.errors import InvalidArgument, NotFound, SageError, as_sage_error
from sagellm_common.version import __version__
from sagellm_gateway.generation.api import Gateway
from sagellm_gateway.http.answer import Answer, Api
from sagellm_gateway.http.body import MAX_BODY_BYTES, parse_body
from sagellm_gateway.http.chat import ChatEvents, whole_chat
from sagellm_gateway.http.completions import CompletionEvents, whole_completion
from sagellm_gateway.http.errors import error_response
from sagellm_gateway.http.openapi import complete_openapi, generation_docs
from sagellm_gateway.http.plan import plan_chat, plan_completion
from sagellm_gateway.http.schemas.chat import ChatCompletion, ChatCompletionChunk, ChatRequest
from sagellm_gateway.http.schemas.completions import Completion, CompletionRequest
from sagellm_gateway.http.service import add_service_routes

_log = structlog.get_logger(__name__)

APIS = {
    "/v1/chat/completions": Api(
        lambda body, headers: plan_chat(parse_body(ChatRequest, body), headers), ChatEvents, whole_chat
    ),
    "/v1/completions": Api(
        lambda body, headers: plan_completion(parse_body(CompletionRequest, body), headers),
        CompletionEvents,
        whole_completion,
    ),
}


class GatewayApp(FastAPI):
    """The application; POSTs to its `direct` paths are answered ahead of the middleware stack.

    Every layer of that stack would be passed once per token (5 µs on one core for all of them). Generation needs none:
    it handles its own errors.
    """

    direct: Mapping[str, Callable[[], Answer]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self.direct.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        await (answer()(scope, receive, send) if answer is not None else super().__call__(scope, receive, send))


def create_app(gateway: Gateway, *, max_body_bytes: int = MAX_BODY_BYTES) -> FastAPI:
    """Build the application; it holds no state beside the gateway's."""
    app = GatewayApp(
        title="sageLLM",
        version=__version__,
        description="OpenAI-compatible generation, served by engines on a NATS bus.",
        docs_url=None,
        redoc_url=None,
        # The gateway writes its own spans; FastAPI's would double them, and trace every probe of health and metrics.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.direct = {path: partial(Answer, gateway, api, max_body_bytes) for path, api in APIS.items()}
    _document_generation(app)
    add_service_routes(app, gateway)
    app.add_exception_handler(HTTPException, _refuse)
    app.add_exception_handler(SageError, _refuse)
    app.add_exception_handler(Exception, _refuse)
    complete_openapi(app)
    return app


def _document_generation(app: GatewayApp) -> None:
    """Declare the routes of generation: for the document, for other methods, and for an application that is mounted."""
    chat_docs = generation_docs(ChatRequest, ChatCompletionChunk)
    completion_docs = generation_docs(CompletionRequest, Completion)

    @app.post("/v1/chat/completions", response_model=ChatCompletion, tags=["generation"], **chat_docs)
    async def chat_completions() -> Response:
        """Continue a chat."""
        return app.direct["/v1/chat/completions"]()

    @app.post("/v1/completions", response_model=Completion, tags=["generation"], **completion_docs)
    async def completions() -> Response:
        """Continue a text."""
        return app.direct["/v1/completions"]()


async def _refuse(request: Request, error: Exception) -> Response:
    """Answer what no endpoint answered: an error of the tree, a path or method that does not exist, a fault."""
    if isinstance(error, HTTPException):
        return error_response(_of_http(request, error), status=error.status_code)
    if not isinstance(error, SageError):
        _log.error("request_failed", path=request.url.path, exc_info=error)
    return error_response(as_sage_error(error))


def _of_http(request: Request, error: HTTPException) -> SageError:
    if error.status_code == 404:
        return NotFound(f"there is nothing at {request.url.path}")
    return InvalidArgument(f"{request.method} {request.url.path}: {error.detail}")
