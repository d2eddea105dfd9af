"""Models, health, metrics, and the OpenAPI document."""

import httpx
import openai
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from sagellm_gateway.http.app import create_app
from support.fake_gateway import FakeGateway
from support.http_server import served


async def test_models_are_listed_and_found_by_id(client: openai.AsyncOpenAI, http: httpx.AsyncClient) -> None:
    """The list and one model by its id, slashes and dots included."""
    models = [model async for model in client.models.list()]
    assert [(model.id, model.object, model.owned_by) for model in models] == [("fake/model-1.0", "model", "sagellm")]
    assert (await client.models.retrieve("fake/model-1.0")).id == "fake/model-1.0"
    assert (await http.get("/v1/models/fake/model-1.0")).json()["max_model_len"] == 4096


async def test_an_unknown_model_is_not_found(client: openai.AsyncOpenAI) -> None:
    """The error names the unknown model and those that are served."""
    with pytest.raises(openai.NotFoundError, match=r"nobody/x.*fake/model-1\.0") as caught:
        await client.models.retrieve("nobody/x")
    assert (caught.value.code, caught.value.param) == ("not_found", "model")


async def test_health_tells_life_from_readiness(http: httpx.AsyncClient, gateway: FakeGateway) -> None:
    """Live is 200 while the loop runs; ready is 503 with the reason while requests cannot be served."""
    assert (await http.get("/health/live")).json()["status"] == "ok"
    assert (await http.get("/health/ready")).status_code == 200
    gateway.not_ready = "no engine is ready"
    assert (await http.get("/health/live")).status_code == 200
    reply = await http.get("/health/ready")
    assert (reply.status_code, reply.json()["reason"]) == (503, "no engine is ready")


async def test_metrics_are_given_in_the_format_asked_for(http: httpx.AsyncClient) -> None:
    """Prometheus gets its text format, and OpenMetrics when it asks for it."""
    reply = await http.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=")
    assert "sagellm_fake_total 1.0" in reply.text
    reply = await http.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert reply.text.endswith("# EOF\n")


async def test_the_document_is_served(http: httpx.AsyncClient) -> None:
    """`/openapi.json` describes the bodies that generation reads and writes itself."""
    document = (await http.get("/openapi.json")).json()
    chat = document["paths"]["/v1/chat/completions"]["post"]
    assert chat["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/ChatRequest")
    assert set(chat["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
    assert "429" in chat["responses"]
    assert "422" not in chat["responses"]


async def test_a_mounted_application_works_the_same(gateway: FakeGateway) -> None:
    """Under another application's path generation goes through the routes, with the same answers and errors."""
    outer = Starlette(routes=[Mount("/llm", create_app(gateway))])
    async with served(outer) as url, httpx.AsyncClient(base_url=f"{url}/llm", verify=False) as http:
        reply = await http.post("/v1/completions", json={"prompt": "hi"})
        assert reply.json()["choices"][0]["text"] == "Hello world!"
        assert (await http.post("/v1/chat/completions", json={})).json()["error"]["param"] == "messages"
