"""The registry as a process on a real nats-server, spoken to by the contract alone."""

import asyncio
import json
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nats.errors
import nats.js.errors
import pytest

from sagellm_common.bus import Bus
from sagellm_common.codec import JSON
from sagellm_common.contracts.events import ModelEvent, RequestEvent
from sagellm_common.contracts.registry import (
    DownloadReply,
    DownloadRequest,
    ListQuery,
    ListReply,
    ModelCard,
    ModelQuery,
    ModelReply,
    TagRequest,
)
from sagellm_common.errors import InvalidArgument, NotFound, PermissionDenied, SageError
from sagellm_common.nats_server import NatsServer
from sagellm_common.settings import BusSettings
from sagellm_common.subjects import encode_token
from support.hub import Hub, Repo, running_hub
from support.model_files import model_files, write_model
from support.processes import ServiceProcess, Services, bus_env, start_service
from support.wait import eventually, eventually_async


class Site:
    """One deployment with its hub, its local folder and the registries that run in it."""

    def __init__(self, settings: BusSettings, hub: Hub, folder: Path) -> None:
        self.settings, self.hub, self.folder = settings, hub, folder
        self.local = folder / "local"
        self.services = Services(folder)
        write_model(self.local / "mine")

    def start(self) -> ServiceProcess:
        """Start a registry whose models, hub and home are this site's."""
        environment = {
            **bus_env(self.settings),
            "HOME": str(self.folder),
            "XDG_DATA_HOME": "",
            "SAGE_LLM_MODEL_ROOT": str(self.folder / "root"),
            "HF_ENDPOINT": self.hub.url,
            "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": "",
            "SAGELLM_MODEL_DIRS": str(self.local),
            "SAGELLM_RESCAN_S": "0.2",
            "SAGELLM_METRICS_PORT": "0",
        }
        process = start_service("registry", environment, log_dir=self.folder)
        self.services.processes.append(process)
        return process


@contextmanager
def _site(settings: BusSettings, folder: Path) -> Iterator[Site]:
    with running_hub() as hub:
        site = Site(settings, hub, folder)
        try:
            yield site
        finally:
            site.services.stop()


@pytest.fixture(scope="module")
def bus_settings(nats_server: NatsServer) -> BusSettings:
    """The deployment that the tests of this file share."""
    return BusSettings(nats_url=nats_server.url, deployment="registry-contract")


@pytest.fixture(scope="module")
def shared(bus_settings: BusSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One registry for the tests of this file: each uses models of its own. It ends in order."""
    with _site(bus_settings, tmp_path_factory.mktemp("registry")) as site:
        process = site.start()
        yield site
        process.terminate()
        assert asyncio.run(process.wait()) == 0, process.log_text()


@pytest.fixture
async def site(shared: Site, bus: Bus) -> AsyncIterator[Site]:
    """The shared registry, ready; what a test leaves behind is taken away."""
    await shared.services.processes[0].logged('"ready"')
    yield shared
    shared.hub.repos.clear()
    shared.hub.fetched.clear()
    for folder in shared.local.iterdir():
        if folder.name != "mine":
            shutil.rmtree(folder)
    for model_id in set(await _listed(bus)) - {"mine"}:
        await _ask(bus, "delete", ModelQuery(model_id=model_id), ModelReply)


async def _ask(bus: Bus, verb: str, message: Any, reply: type[Any]) -> Any:
    return await bus.request(bus.settings.subjects.registry(verb), message, reply, timeout_s=10)


async def _listed(bus: Bus) -> list[str]:
    reply: ListReply = await _ask(bus, "list", ListQuery(), ListReply)
    return [model.model_id for model in reply.models if model.source != "builtin"]


WEIGHTS = len(model_files()["model.safetensors"])


class Events:
    """The events of one model, as they come."""

    def __init__(self) -> None:
        self.seen: list[ModelEvent] = []

    @classmethod
    async def of(cls, bus: Bus, model_id: str) -> "Events":
        events = cls()
        await bus.subscribe(bus.settings.subjects.model_event(model_id), ModelEvent, events._take)
        await bus.flush()
        return events

    def _take(self, event: ModelEvent, _: object) -> None:
        self.seen.append(event)

    async def end(self) -> ModelEvent:
        """Return the event that ends the download."""
        await eventually(lambda: any(e.phase in ("ready", "failed") for e in self.seen), 30, "the end of the download")
        return next(event for event in self.seen if event.phase in ("ready", "failed"))


async def test_a_download_reports_its_progress_and_ends_in_a_card(bus: Bus, site: Site) -> None:
    """Asked to download, the registry answers at once, tells its progress, and has model, card and bucket entry."""
    site.hub.repos["org/m.1"] = Repo(model_files())
    events = await Events.of(bus, "org/m.1")
    reply = await _ask(bus, "download", DownloadRequest(model_id="org/m.1"), DownloadReply)
    assert reply.status == "started"
    assert (await events.end()).phase == "ready"
    phases = [event.phase for event in events.seen]
    assert phases[0] == "downloading"
    assert list(dict.fromkeys(phases)) == ["downloading", "verifying", "ready"]
    total = sum(map(len, model_files().values()))
    assert (events.seen[-1].done_bytes, events.seen[-1].total_bytes) == (total, total)
    again = await _ask(bus, "download", DownloadRequest(model_id="org/m.1"), DownloadReply)
    assert (again.status, again.model.model_id) == ("present", "org/m.1")
    resolved = await _ask(bus, "resolve", ModelQuery(model_id="org/m.1"), ModelReply)
    assert (resolved.card.parameters, resolved.detail) == (68, {"commit": "a" * 40})
    bucket = await bus.bucket(bus.settings.subjects.bucket("models"))

    async def published() -> bool:
        return await bucket.get(ModelCard, encode_token("org/m.1")) is not None

    await eventually_async(published, what="the card in the bucket")


async def test_two_requests_for_one_model_join(bus: Bus, site: Site) -> None:
    """While a download runs, a second request joins it, and a delete is refused until it has ended."""
    held = threading.Event()
    site.hub.repos["org/m"] = Repo(model_files(), held=held)
    events = await Events.of(bus, "org/m")
    assert (await _ask(bus, "download", DownloadRequest(model_id="org/m"), DownloadReply)).status == "started"
    assert (await _ask(bus, "download", DownloadRequest(model_id="org/m"), DownloadReply)).status == "running"
    with pytest.raises(SageError, match="being downloaded"):
        await _ask(bus, "delete", ModelQuery(model_id="org/m"), ModelReply)
    assert await _listed(bus) == ["mine"]
    held.set()
    assert (await events.end()).phase == "ready"
    assert [file for file, _ in site.hub.fetched].count("model.safetensors") == 1


@pytest.mark.parametrize(
    ("repo", "code", "said"),
    [
        (Repo(model_files(), lies={"model.safetensors": bytes(WEIGHTS)}), "unavailable", "have the hash"),
        (Repo(model_files(), lies={"model.safetensors": b"x"}), "unavailable", "run it again"),
        (Repo(model_files(), status=403, error_code="GatedRepo"), "permission_denied", "gated"),
        (Repo({"config.json": b"{}", "pytorch_model.bin": b"x"}), "invalid_argument", "pickled"),
        (None, "not_found", "Model 'org/m' not found"),
    ],
)
async def test_a_download_that_fails_says_why_and_lists_nothing(
    bus: Bus, site: Site, repo: Repo | None, code: str, said: str
) -> None:
    """The last event of a failed download carries the typed error; nothing of it is listed; the service goes on."""
    if repo is not None:
        site.hub.repos["org/m"] = repo
    events = await Events.of(bus, "org/m")
    assert (await _ask(bus, "download", DownloadRequest(model_id="org/m"), DownloadReply)).status == "started"
    end = await events.end()
    assert end.phase == "failed"
    assert end.error is not None
    assert end.error["code"] == code
    assert said in end.error["message"]
    assert await _listed(bus) == ["mine"]


@pytest.mark.acceptance(38)
async def test_touch_tag_list_and_delete(bus: Bus, site: Site) -> None:
    """Rows change by request, the list can be narrowed by tags, and a deleted model is gone for everybody."""
    site.hub.repos["org/m"] = Repo(model_files())
    events = await Events.of(bus, "org/m")
    await _ask(bus, "download", DownloadRequest(model_id="org/m"), DownloadReply)
    first = (await events.end()) and (await _ask(bus, "resolve", ModelQuery(model_id="org/m"), ModelReply)).model
    touched = await _ask(bus, "touch", ModelQuery(model_id="org/m"), ModelReply)
    assert touched.model.last_used > first.last_used
    tagged = await _ask(bus, "tag", TagRequest(model_id="org/m", tags={"team": "a", "type": None}), ModelReply)
    assert tagged.model.tags == {"team": "a"}
    narrowed = await _ask(bus, "list", ListQuery(tags={"team": "a"}), ListReply)
    assert [model.model_id for model in narrowed.models] == ["org/m"]
    await _ask(bus, "delete", ModelQuery(model_id="org/m"), ModelReply)
    await eventually(lambda: events.seen[-1].phase == "deleted")
    assert await _listed(bus) == ["mine"]
    bucket = await bus.bucket(bus.settings.subjects.bucket("models"))
    assert await bucket.get(ModelCard, encode_token("org/m")) is None
    with pytest.raises(NotFound, match="sagellm model download org/m"):
        await _ask(bus, "resolve", ModelQuery(model_id="org/m"), ModelReply)


async def test_a_models_use_is_noted(bus: Bus, site: Site) -> None:
    """When a request got its first token, `last_used` of its model is set."""
    before = (await _ask(bus, "resolve", ModelQuery(model_id="mine"), ModelReply)).model.last_used
    event = RequestEvent(request_id="r", phase="first_token", model="mine")
    await bus.publish(bus.settings.subjects.request_event("first_token"), event)

    async def noted() -> bool:
        return bool((await _ask(bus, "resolve", ModelQuery(model_id="mine"), ModelReply)).model.last_used > before)

    await eventually_async(noted, what="the use in the manifest")


async def test_local_folders_are_watched_and_not_deleted(bus: Bus, site: Site) -> None:
    """A folder put there by hand appears in the bucket and vanishes with the folder; delete is refused."""
    bucket = await bus.bucket(bus.settings.subjects.bucket("models"))
    write_model(site.local / "org" / "later")
    key = encode_token("org/later")

    async def is_there() -> bool:
        return await bucket.get(ModelCard, key) is not None

    async def is_gone() -> bool:
        return not await is_there()

    await eventually_async(is_there, what="the new card")
    with pytest.raises(PermissionDenied):
        await _ask(bus, "delete", ModelQuery(model_id="org/later"), ModelReply)
    (site.local / "org" / "later" / "config.json").unlink()
    await eventually_async(is_gone, what="the end of the card")


async def test_a_damaged_model_is_named_and_the_others_are_served(bus: Bus, site: Site) -> None:
    """Resolving a model whose config is damaged is a typed error with the file's name; others resolve."""
    write_model(site.local / "bad", {**model_files(), "config.json": b"{"})
    with pytest.raises(InvalidArgument, match=r"bad/config\.json"):
        await _ask(bus, "resolve", ModelQuery(model_id="bad"), ModelReply)
    assert (await _ask(bus, "resolve", ModelQuery(model_id="mine"), ModelReply)).card.vocab_size == 16


VERBS = ["list", "resolve", "download", "delete", "touch", "tag"]


def _malformed(verb: str) -> list[tuple[bytes, dict[str, str] | None]]:
    bodies: list[tuple[bytes, dict[str, str] | None]] = [(b"\xc1", None), (b"{", {"Content-Type": JSON})]
    fields = {"tags": 3} if verb == "list" else {"model_id": "../../etc", "tags": {}}
    bodies += [(b'["x"]', {"Content-Type": JSON}), (json.dumps(fields).encode(), {"Content-Type": JSON})]
    return bodies


async def test_malformed_messages_are_refused_and_the_service_goes_on(bus: Bus, site: Site) -> None:
    """Broken msgpack and JSON, wrong types, and ids that lead elsewhere end in a typed error for every verb."""
    for verb in VERBS:
        for body, headers in _malformed(verb):
            subject = bus.settings.subjects.registry(verb)
            msg = await bus.client.request(subject, body, headers=headers, timeout=10)
            assert msg.headers is not None
            assert msg.headers["Nats-Service-Error-Code"] == "400"
    assert await _listed(bus) == ["mine"]


async def test_a_person_can_ask_in_json(bus: Bus, site: Site) -> None:
    """With a Content-Type header, the list comes as JSON; unknown fields are ignored."""
    subject = bus.settings.subjects.registry("list")
    msg = await bus.client.request(subject, b'{"new_field": 1}', headers={"Content-Type": JSON}, timeout=10)
    assert "mine" in [model["model_id"] for model in json.loads(msg.data)["models"]]


async def test_micro_service_discovery_counts_the_requests(bus: Bus, site: Site) -> None:
    """`$SRV.INFO` shows the six endpoints, `$SRV.STATS` counts what they answered."""
    info = json.loads((await bus.client.request("$SRV.INFO.sagellm-registry", b"")).data)
    assert [endpoint["name"] for endpoint in info["endpoints"]] == VERBS
    before = await _num_lists(bus)
    await _listed(bus)
    assert await _num_lists(bus) == before + 1


async def _num_lists(bus: Bus) -> int:
    stats = json.loads((await bus.client.request("$SRV.STATS.sagellm-registry", b"")).data)
    return int(stats["endpoints"][0]["num_requests"])


async def test_a_registry_killed_in_a_download_starts_again_clean(nats_server: NatsServer, tmp_path: Path) -> None:
    """After a crash no half model is listed, cards of vanished models are taken back, and the download can go on."""
    settings = BusSettings(nats_url=nats_server.url, deployment="registry-crash")
    bus = await Bus.connect(settings, "test")
    with _site(settings, tmp_path) as site:
        await _crash_in_a_download(bus, site)
        bucket = await bus.bucket(settings.subjects.bucket("models"))
        path = str(tmp_path / "root" / "org" / "ghost")
        ghost = ModelCard(model_id="org/ghost", path=path, architecture="X", max_model_len=1, vocab_size=1)
        await bucket.put(encode_token("org/ghost"), ghost)
        await site.start().logged('"ready"')
        assert await _listed(bus) == ["mine"]
        assert await bucket.get(ModelCard, encode_token("org/ghost")) is None
        events = await Events.of(bus, "org/m")
        await _ask(bus, "download", DownloadRequest(model_id="org/m"), DownloadReply)
        assert (await events.end()).phase == "ready"
        assert await _listed(bus) == ["mine", "org/m"]
    await bus.close()


async def _crash_in_a_download(bus: Bus, site: Site) -> None:
    held = threading.Event()
    site.hub.repos["org/m"] = Repo(model_files(), held=held)
    process = site.start()
    await process.logged('"ready"')
    await _ask(bus, "download", DownloadRequest(model_id="org/m"), DownloadReply)
    assert await asyncio.to_thread(site.hub.asked.wait, 30)
    process.kill()
    held.set()


async def test_a_server_that_lost_its_storage_gets_the_cards_again(own_nats_server: NatsServer, tmp_path: Path) -> None:
    """When the bucket is gone with the server's disk the registry makes it anew and writes its cards into it."""
    settings = BusSettings(nats_url=own_nats_server.url, deployment="lost")
    bus = await Bus.connect(settings, "test")

    async def has_card() -> bool:
        try:
            bucket = await bus.client.jetstream().key_value(settings.subjects.bucket("models"))
            return bool((await bucket.get(encode_token("mine"))).value)
        except (nats.js.errors.Error, nats.errors.Error):
            return False

    with _site(settings, tmp_path / "site") as site:
        await site.start().up(bus)
        await eventually_async(has_card, 20, "the card")
        own_nats_server.kill()
        shutil.rmtree(own_nats_server.store)
        own_nats_server.start()
        await eventually(lambda: bus.is_connected and bus.reconnects == 1, 20, "the server again")
        await eventually_async(has_card, 30, "the card, again")
    await bus.close()
