"""A scripted gateway behind a real HTTP server."""

from collections.abc import AsyncIterator

import httpx
import openai
import pytest

from sagellm_gateway.http.app import create_app
from support.fake_gateway import FakeGateway
from support.http_server import served


@pytest.fixture
def gateway() -> FakeGateway:
    return FakeGateway()


@pytest.fixture
async def url(gateway: FakeGateway) -> AsyncIterator[str]:
    async with served(create_app(gateway)) as url:
        yield url


@pytest.fixture
async def http(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, timeout=20, verify=False) as client:  # certificates take 60 ms to load
        yield client


@pytest.fixture
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    plain = openai.DefaultAsyncHttpxClient(verify=False)
    async with openai.AsyncOpenAI(
        base_url=f"{url}/v1", api_key="unused", max_retries=0, timeout=20, http_client=plain
    ) as client:
        yield client
