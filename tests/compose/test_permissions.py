"""nats.conf on a real nats-server: what each user may do, and what nobody may."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import nats
import nats.errors
import pytest
from nats.aio.client import Client

from sagellm_common.bus import Bucket, Bus
from sagellm_common.contracts.base import Message
from sagellm_common.contracts.policy import Leader
from sagellm_common.nats_server import NatsServer
from support.compose import dot_env
from support.compose_stack import bus_settings, start_nats
from support.wait import eventually, eventually_async

USERS = ["gateway", "scheduler", "registry", "engine", "planner", "client", "operator"]
PREFIX = "sagellm.default.v1"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A nats-server with the shipped configuration."""
    started = start_nats(tmp_path_factory.mktemp("nats"))
    yield started
    started.stop()


class User:
    """A connection of one user, and the refusals that the server has sent it."""

    def __init__(self, client: Client, refused: list[str]) -> None:
        self.client, self.refused = client, refused

    @classmethod
    async def connect(cls, server: NatsServer, name: str) -> "User":
        refused: list[str] = []

        async def on_error(error: Exception) -> None:
            refused.append(str(error).lower())

        client = await nats.connect(
            server.url,
            user=name,
            password=dot_env()[f"NATS_{name.upper()}_PASSWORD"],
            inbox_prefix=f"_INBOX.{name}",
            error_cb=on_error,
        )
        return cls(client, refused)

    async def may_subscribe(self, subject: str) -> None:
        """The server takes the subscription."""
        await self.client.subscribe(subject)
        await self._flush()
        assert not self._refused("subscription", subject), subject

    async def may_not_subscribe(self, subject: str) -> None:
        """The server refuses the subscription."""
        await self.client.subscribe(subject)
        await eventually(lambda: self._refused("subscription", subject), 5, f"the refusal of {subject}")

    async def may_publish(self, subject: str) -> None:
        """The server takes a message."""
        await self.client.publish(subject, b"")
        await self._flush()
        assert not self._refused("publish", subject), subject

    async def may_not_publish(self, subject: str) -> None:
        """The server refuses a message."""
        await self.client.publish(subject, b"")
        await eventually(lambda: self._refused("publish", subject), 5, f"the refusal of {subject}")

    async def _flush(self) -> None:
        """Twice: a refusal comes before the first answer, its callback has run before the second."""
        await self.client.flush()
        await self.client.flush()

    def _refused(self, kind: str, subject: str) -> bool:
        return any(f'permissions violation for {kind} to "{subject.lower()}"' in text for text in self.refused)


@pytest.fixture
async def user(server: NatsServer) -> AsyncIterator[Callable[[str], "asyncio.Future[User]"]]:
    """Connects as a named user; the connections are closed at the end."""
    opened: list[User] = []

    async def connect(name: str) -> User:
        opened.append(await User.connect(server, name))
        return opened[-1]

    yield lambda name: asyncio.ensure_future(connect(name))
    for one in opened:
        await one.client.close()


Connect = Callable[[str], "asyncio.Future[User]"]


@pytest.mark.parametrize("name", USERS)
async def test_nobody_may_listen_to_the_inbox_of_another(user: Connect, name: str) -> None:
    """Each user's own inbox is open to it, every other's and all wildcards above are not."""
    me = await user(name)
    await me.may_subscribe(f"_INBOX.{name}.>")
    others = [f"_INBOX.{other}.>" for other in USERS if other != name]
    for subject in [*others, f"_INBOX.{'engine' if name != 'engine' else 'client'}.abc", "_INBOX.>", "_INBOX.*.>", ">"]:
        await me.may_not_subscribe(subject)


@pytest.mark.parametrize(
    "subject",
    [
        f"{PREFIX}.engine.*.dispatch",
        f"{PREFIX}.engine.decode.dispatch",
        f"{PREFIX}.engine.>",
        f"{PREFIX}.generate",
        f"{PREFIX}.cancel.*",
        f"{PREFIX}.tokens.*",
        f"{PREFIX}.gateway.*.assign",
        f"{PREFIX}.scheduler.*.submit",
        f"{PREFIX}.events.request.*",
        f"{PREFIX}.decision.*",
        f"{PREFIX}.>",
        "$KV.>",
        "$JS.API.>",
        "$SRV.>",
    ],
)
async def test_a_client_hears_nothing_of_others(user: Connect, subject: str) -> None:
    """Prompts, tokens, decisions and the state of the services are closed to a client."""
    await (await user("client")).may_not_subscribe(subject)


@pytest.mark.parametrize(
    "subject",
    [
        f"{PREFIX}.engine.decode.dispatch",
        f"{PREFIX}.engine.decode.control",
        f"{PREFIX}.engine.decode.cancel",
        f"{PREFIX}.tokens.gateway-1",
        f"{PREFIX}.gateway.gateway-1.assign",
        f"{PREFIX}.scheduler.policy",
        f"{PREFIX}.registry.delete",
        f"{PREFIX}.registry.download",
        "$KV.sagellm_default_leader.scheduler",
        "$KV.sagellm_default_engines.decode",
        "$KV.sagellm_default_plans.m",
        "$JS.API.STREAM.DELETE.KV_sagellm_default_engines",
        "_INBOX.gateway.abc",
    ],
)
async def test_a_client_cannot_speak_for_a_service(user: Connect, subject: str) -> None:
    """A client can neither dispatch, nor assign, nor forge tokens, nor change state."""
    await (await user("client")).may_not_publish(subject)


async def test_a_client_may_do_what_it_is_there_for(user: Connect) -> None:
    """A client asks, cancels, looks at models and decisions, and finds the services."""
    me = await user("client")
    for subject in ("generate", "cancel.abc", "registry.list", "registry.resolve", "scheduler.explain"):
        await me.may_publish(f"{PREFIX}.{subject}")
    await me.may_publish("$SRV.PING.sagellm-gateway")


async def test_an_operator_looks_and_steers_and_reads_no_prompts(user: Connect) -> None:
    """Policies, drains, models, plans; but neither requests nor answers, and nothing in the name of a service."""
    me = await user("operator")
    for subject in ("scheduler.policy", "scheduler.explain", "engine.e.control", "registry.download"):
        await me.may_publish(f"{PREFIX}.{subject}")
    for subject in ("generate", "engine.e.dispatch", "tokens.g", "gateway.g.assign"):
        await me.may_not_publish(f"{PREFIX}.{subject}")
        await me.may_not_subscribe(f"{PREFIX}.{subject}")
    for bucket in ("engines", "plans", "policy"):
        await me.may_not_publish(f"$KV.sagellm_default_{bucket}.x")


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("engine", f"{PREFIX}.engine.other.dispatch"),
        ("engine", f"{PREFIX}.gateway.g.assign"),
        ("engine", "$KV.sagellm_default_leader.scheduler"),
        ("engine", "$KV.sagellm_default_models.m"),
        ("registry", f"{PREFIX}.tokens.g"),
        ("registry", "$KV.sagellm_default_engines.e"),
        ("scheduler", f"{PREFIX}.engine.e.dispatch"),
        ("scheduler", f"{PREFIX}.tokens.g"),
        ("gateway", f"{PREFIX}.tokens.g"),
        ("gateway", f"{PREFIX}.registry.delete"),
        ("gateway", "$KV.sagellm_default_leader.scheduler"),
        ("scheduler", "$KV.sagellm_default_plans.m"),
        ("planner", "$KV.sagellm_default_engines.e"),
        ("planner", "$KV.sagellm_default_policy.scheduler"),
        ("planner", f"{PREFIX}.engine.e.control"),
        ("planner", f"{PREFIX}.events.request.finished"),
    ],
)
async def test_a_service_speaks_only_for_itself(user: Connect, name: str, subject: str) -> None:
    """No service can publish what belongs to another."""
    await (await user(name)).may_not_publish(subject)


async def test_the_scheduler_sees_no_prompts(user: Connect) -> None:
    """Bodies of requests and tokens are closed to scheduler, planner, registry and operator."""
    for name in ("scheduler", "planner", "registry", "operator"):
        me = await user(name)
        for subject in (f"{PREFIX}.engine.*.dispatch", f"{PREFIX}.tokens.*", f"{PREFIX}.generate"):
            await me.may_not_subscribe(subject)


@pytest.mark.parametrize("options", [{"user": "gateway", "pass": "wrong"}, {"user": "nobody", "pass": "x"}, {}])
def test_a_wrong_password_is_refused(server: NatsServer, options: dict[str, str]) -> None:
    """Without a user and its password nobody comes in."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        stream = connection.makefile("rwb")
        assert stream.readline().startswith(b"INFO")
        stream.write(f"CONNECT {json.dumps(options)}\r\nPING\r\n".encode())
        stream.flush()
        assert stream.readline().strip() == b"-ERR 'Authorization Violation'"
        stream.close()


READS = [
    ("gateway", "engines"),
    ("gateway", "leader"),
    ("scheduler", "engines"),
    ("scheduler", "policy"),
    ("registry", "models"),
    ("planner", "engines"),
    ("planner", "plans"),
    ("client", "engines"),
    ("operator", "engines"),
    ("operator", "plans"),
]


@asynccontextmanager
async def _bucket(server: NatsServer, name: str, bucket: str) -> AsyncIterator[Bucket]:
    bus = await Bus.connect(bus_settings(server, name), "test")
    try:
        yield await bus.bucket(f"sagellm_default_{bucket}")
    finally:
        await bus.close()


@pytest.mark.parametrize(("name", "bucket"), READS)
async def test_a_user_reads_the_buckets_that_it_needs(server: NatsServer, name: str, bucket: str) -> None:
    """Who follows a bucket may open and read all of it."""
    async with _bucket(server, "planner" if name in ("client", "operator") else name, bucket):
        pass  # they cannot make a bucket
    async with _bucket(server, name, bucket) as opened:
        assert await opened.read_all(Message) == {}


@pytest.mark.parametrize("name", USERS)
async def test_other_buckets_are_closed(user: Connect, name: str) -> None:
    """Nobody reads a whole bucket that it does not need."""
    me = await user(name)
    for bucket in {bucket for _, bucket in READS} - {bucket for reader, bucket in READS if reader == name}:
        await me.may_not_publish(f"$JS.API.DIRECT.GET.KV_sagellm_default_{bucket}")


async def test_a_lease_and_a_registration_are_looked_up_by_their_owners(server: NatsServer) -> None:
    """The scheduler finds out that a lease is taken, and an engine reads its own entry."""
    leader = Leader(scheduler_id="s", started_at=0.0)
    async with _bucket(server, "scheduler", "leader") as lease:
        assert await lease.create("scheduler", leader) is not None
        assert await lease.create("scheduler", leader) is None
        await lease.delete("scheduler")
    async with _bucket(server, "engine", "engines") as engines:
        assert await engines.get(Leader, "e") is None


@pytest.mark.parametrize("name", USERS)
async def test_nobody_makes_consumers(user: Connect, name: str) -> None:
    """Consumers stay on the server, and nothing needs them."""
    me = await user(name)
    for bucket in ("engines", "leader", "policy", "models", "plans"):
        await me.may_not_publish(f"$JS.API.CONSUMER.CREATE.KV_sagellm_default_{bucket}")
        await me.may_not_publish(f"$JS.API.CONSUMER.CREATE.KV_sagellm_default_{bucket}.c")


async def test_a_reply_reaches_only_who_asked(user: Connect) -> None:
    """A service answers a request in the asker's inbox, and cannot write into it unasked."""
    engine, gateway = await user("engine"), await user("gateway")

    async def answer(msg: nats.aio.msg.Msg) -> None:
        await msg.respond(b"yes")

    await engine.client.subscribe(f"{PREFIX}.engine.e.dispatch", cb=answer)
    await engine.client.flush()

    async def is_answered() -> bool:
        try:
            return (await gateway.client.request(f"{PREFIX}.engine.e.dispatch", b"", timeout=5)).data == b"yes"
        except nats.errors.NoRespondersError:  # under load the server has been seen to know the subscription later
            return False

    await eventually_async(is_answered)
    await engine.may_not_publish("_INBOX.gateway.guess")


async def test_the_bus_takes_eight_mebibytes(user: Connect) -> None:
    """The server announces the payload limit that the services count on."""
    client = (await user("client")).client
    await eventually(lambda: client.max_payload == 8 * 1024 * 1024)
