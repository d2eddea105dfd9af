"""Buckets on a bus that does not answer, answers in part, or answers before it has stored what it announces."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.kv import KeyValue

from sagellm_common.bus import Bucket, buckets
from sagellm_common.codec import encode
from sagellm_common.contracts.policy import Leader
from sagellm_common.errors import Unavailable
from support.wait import eventually

EMPTY = {"Status": "404", "Description": "No Results"}
EXPIRED = {"Status": "404", "Description": "Message Not Found"}
TOO_MANY = {"Status": "413", "Description": "Too Many Results"}


class _Server:
    """The library's client, with a server that answers each request with the next of the given answers."""

    is_closed = False

    def __init__(self, *answers: list[Msg]) -> None:
        self.answers = list(answers)
        self.requests: list[dict[str, Any]] = []
        self._listeners: dict[str, Callable[[Msg], Awaitable[None]]] = {}

    @property
    def listening(self) -> list[str]:
        return list(self._listeners)

    def new_inbox(self) -> str:
        return "_INBOX.a"

    async def subscribe(self, subject: str, cb: Callable[[Msg], Awaitable[None]]) -> "_Subscription":
        self._listeners[subject] = cb
        return _Subscription(self._listeners, subject)

    async def publish(self, subject: str, payload: bytes, reply: str) -> None:
        assert subject == "$JS.API.DIRECT.GET.KV_engines"
        self.requests.append(json.loads(payload))
        for msg in self.answers.pop(0) if self.answers else []:
            await self._listeners[reply](msg)

    async def announce(self, key: str, data: bytes) -> None:
        """Say that somebody writes a key."""
        await self._listeners["$KV.engines.>"](_msg({}, data, f"$KV.engines.{key}"))


class _Subscription:
    def __init__(self, listeners: dict[str, Callable[[Msg], Awaitable[None]]], subject: str) -> None:
        self._listeners, self._subject = listeners, subject

    async def unsubscribe(self) -> None:
        del self._listeners[self._subject]


def _msg(headers: dict[str, str], data: bytes = b"", subject: str = "_INBOX.a") -> Msg:
    return Msg(_client=cast(Client, None), subject=subject, data=data, headers=headers or None)


def _value(number: float) -> bytes:
    return encode(Leader(scheduler_id="s", started_at=number))


def _stored(seq: int, before: int, key: str) -> Msg:
    headers = {"Nats-Subject": f"$KV.engines.{key}", "Nats-Sequence": str(seq), "Nats-Last-Sequence": str(before)}
    return _msg(headers, _value(float(seq)))


def _end(last: int, pending: int = 0) -> Msg:
    return _msg({"Status": "204", "Nats-Last-Sequence": str(last), "Nats-Num-Pending": str(pending)})


def _bucket(server: _Server) -> Bucket:
    return Bucket(cast(KeyValue, None), cast(Client, server), "engines", 0)


async def _read(server: _Server) -> dict[str, float]:
    return {key: value.started_at for key, value in (await _bucket(server).read_all(Leader)).items()}


COMPLETE = [_stored(3, 0, "a"), _stored(7, 3, "b"), _end(7)]


async def test_a_read_that_is_never_answered_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading gives up after a while, so that a follower goes on instead of showing the same state for ever."""
    monkeypatch.setattr(buckets, "READ_TIMEOUT_S", 0.05)
    server = _Server()
    with pytest.raises(Unavailable, match="engines: cannot be read: no answer came in time"):
        await asyncio.wait_for(_read(server), 5)
    assert not server.listening


async def test_a_complete_answer_is_taken_and_nothing_listens_on() -> None:
    """One request is enough, and its inbox is given up."""
    server = _Server(COMPLETE)
    assert await _read(server) == {"a": 3.0, "b": 7.0}
    assert len(server.requests) == 1
    assert not server.listening


@pytest.mark.parametrize(
    "incomplete",
    [
        pytest.param([_msg(EXPIRED)], id="all has just expired"),
        pytest.param([_stored(3, 0, "a"), _msg(EXPIRED)], id="one has just expired"),
        pytest.param([_stored(7, 3, "b"), _end(7)], id="the first is lost"),
        pytest.param([_stored(3, 0, "a"), _end(7)], id="the last is lost"),
        pytest.param([_stored(3, 0, "a"), _stored(9, 7, "c"), _end(9)], id="one between is lost"),
        pytest.param([_end(7)], id="all are lost"),
        pytest.param([_msg(TOO_MANY)], id="too many, and gone when they are asked for"),
    ],
)
async def test_an_incomplete_answer_is_asked_for_again(incomplete: list[Msg]) -> None:
    """What has changed under the answer or was lost on the way never looks like absent keys."""
    gone = [[_msg(EXPIRED)]] if incomplete[0].headers == TOO_MANY else []
    server = _Server(incomplete, *gone, COMPLETE)
    assert await _read(server) == {"a": 3.0, "b": 7.0}
    assert not server.answers


async def test_answers_that_stay_incomplete_are_unavailable() -> None:
    """Asking again has an end."""
    with pytest.raises(Unavailable, match="incomplete"):
        await _read(_Server(*[[_msg(EXPIRED)]] * 20))


@pytest.mark.parametrize("status", [{"Status": "503"}, {"Status": "500", "Description": "fault"}, {}])
async def test_any_other_word_of_the_server_is_unavailable(status: dict[str, str]) -> None:
    """A refusal or a fault is not taken for an empty bucket."""
    with pytest.raises(Unavailable, match="engines: cannot be read"):
        await _read(_Server([_msg(status)]))


async def test_only_no_results_is_empty() -> None:
    """The server's own word that nothing is there ends the read."""
    assert await _read(_Server([_msg(EMPTY)])) == {}


async def test_a_key_that_expires_between_two_pages_loses_nothing_else() -> None:
    """A later page that has just lost its first message is not taken for the end of the bucket."""
    first = [_stored(3, 0, "a"), _end(3, pending=2)]
    server = _Server(first, [_msg(EXPIRED)], first, [_stored(7, 0, "b"), _end(7)])
    assert await _read(server) == {"a": 3.0, "b": 7.0}
    assert [request["seq"] for request in server.requests] == [1, 4, 1, 4]


async def test_what_is_rewritten_or_deleted_between_two_pages_shows_its_last_state() -> None:
    """A later page overrules an earlier one."""
    deleted = _stored(9, 8, "b")
    cast(dict[str, str], deleted.headers)["KV-Operation"] = "DEL"
    first = [_stored(3, 0, "a"), _stored(4, 3, "b"), _end(4, pending=1)]
    server = _Server(first, [_stored(8, 0, "a"), deleted, _end(9)])
    assert await _read(server) == {"a": 8.0}


async def test_a_long_stream_ends_where_nothing_is_left() -> None:
    """In the stream itself the server says of the end what it says of an expired message."""
    server = _Server([_msg(TOO_MANY)], [_stored(3, 0, "a"), _end(3, pending=1)], [_msg(EXPIRED)])
    assert await _read(server) == {"a": 3.0}


async def test_a_hint_that_comes_before_its_value_is_stored_is_followed_up() -> None:
    """A read that does not show yet what was announced is soon repeated, long before the next regular one."""
    server = _Server([_stored(3, 0, "a"), _end(3)], [_stored(3, 0, "a"), _end(3)], [_stored(4, 0, "a"), _end(4)])
    seen: list[float] = []
    follower = await _bucket(server).follow(
        Leader, lambda key, value: seen.append(value.started_at), lambda key: None, resync_s=60.0
    )
    await server.announce("a", _value(4.0))
    await eventually(lambda: seen == [3.0, 4.0], 2.0)
    await follower.stop()
    assert not server.listening


async def test_a_hint_that_never_comes_true_is_given_up() -> None:
    """A write that the server has refused costs a few reads, then the regular ones go on."""
    same = [_stored(3, 0, "a"), _end(3)]
    server = _Server(*[same] * 100)
    follower = await _bucket(server).follow(Leader, lambda key, value: None, lambda key: None, resync_s=60.0)
    await server.announce("a", _value(4.0))
    await eventually(lambda: len(server.requests) > 1 and not follower._rereads)
    assert follower._next_read_s() == 60.0
    await follower.stop()
    assert 1 < len(server.requests) <= 2 + len(buckets.REREAD_S)
