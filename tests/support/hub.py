"""A local server that speaks the part of the Hugging Face hub's API that downloads use.

`/api/models/<id>/revision/<rev>`, `/api/models/<id>/tree/<rev>`, and `/<id>/resolve/<rev>/<file>` with ETag,
X-Repo-Commit, X-Linked-Size and ranges. Large files (safetensors, bin) are LFS files: their ETag is a sha256.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_API = re.compile(r"/api/models/(?P<id>[^/]+/[^/]+)/(?P<what>revision|tree)/(?P<rev>[^/?]+)")
_RESOLVE = re.compile(r"/(?P<id>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<file>[^?]+)")


@dataclass
class Repo:
    """One repository. `lies` replaces the bytes of a file while its hash stays; `cuts` breaks the connection of the
    next requests for a file after so many bytes; `held` keeps the bytes of every weight file back until it is set."""

    files: dict[str, bytes]
    commit: str = "a" * 40
    revisions: tuple[str, ...] = ("main",)
    status: int = 200
    error_code: str = ""
    lies: dict[str, bytes] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    held: threading.Event | None = None


class Hub:
    """Repositories by id, and a record of the requests for files: (file, Range header or "")."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.fetched: list[tuple[str, str]] = []
        self.asked = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """Stop serving; returns when every request has ended."""
        for repo in self.repos.values():
            if repo.held is not None:
                repo.held.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:
                """Stay silent: tests read no access log."""

            def do_HEAD(self) -> None:
                _answer(hub, self, body=False)

            def do_GET(self) -> None:
                _answer(hub, self, body=True)

        return Handler


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub on a free port for the time of the block."""
    hub = Hub()
    try:
        yield hub
    finally:
        hub.close()


def _answer(hub: Hub, request: BaseHTTPRequestHandler, *, body: bool) -> None:
    if match := _API.match(request.path):
        repo = _repo(hub, request, match)
        if repo is not None:
            _send_json(request, _info(match, repo) if match["what"] == "revision" else _tree(repo), body)
    elif match := _RESOLVE.match(request.path):
        repo = _repo(hub, request, match)
        if repo is not None:
            _send_file(hub, request, repo, match["file"], body)
    else:
        _refuse(request, 404, "")


def _repo(hub: Hub, request: BaseHTTPRequestHandler, match: re.Match[str]) -> Repo | None:
    repo = hub.repos.get(match["id"])
    if repo is None:
        _refuse(request, 404, "RepoNotFound")
    elif repo.status != 200:
        _refuse(request, repo.status, repo.error_code)
    elif match["rev"] not in (*repo.revisions, repo.commit):
        _refuse(request, 404, "RevisionNotFound")
    else:
        return repo
    return None


def _refuse(request: BaseHTTPRequestHandler, status: int, code: str) -> None:
    request.send_response(status)
    if code:
        request.send_header("X-Error-Code", code)
    request.send_header("Content-Length", "0")
    request.end_headers()


def _is_lfs(name: str) -> bool:
    return name.endswith((".safetensors", ".bin"))


def _etag(name: str, data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() if _is_lfs(name) else _git_sha1(data)


def _git_sha1(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data, usedforsecurity=False).hexdigest()


def _info(match: re.Match[str], repo: Repo) -> dict[str, Any]:
    siblings = [{"rfilename": name} for name in repo.files]
    return {"id": match["id"], "modelId": match["id"], "sha": repo.commit, "siblings": siblings, "private": False}


def _tree(repo: Repo) -> list[dict[str, Any]]:
    return [_entry(name, data) for name, data in repo.files.items()]


def _entry(name: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": _git_sha1(data)}
    if _is_lfs(name):
        entry["lfs"] = {"oid": _etag(name, data), "size": len(data), "pointerSize": 134}
    return entry


def _send_json(request: BaseHTTPRequestHandler, value: Any, body: bool) -> None:
    data = json.dumps(value).encode()
    request.send_response(200)
    request.send_header("Content-Type", "application/json")
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    if body:
        request.wfile.write(data)


def _send_file(hub: Hub, request: BaseHTTPRequestHandler, repo: Repo, name: str, body: bool) -> None:
    if name not in repo.files:
        _refuse(request, 404, "EntryNotFound")
        return
    whole = repo.files[name]
    wanted = request.headers.get("Range", "")
    start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
    data = repo.lies.get(name, whole)[start:]
    request.send_response(206 if wanted else 200)
    request.send_header("ETag", f'"{_etag(name, whole)}"')
    request.send_header("X-Repo-Commit", repo.commit)
    request.send_header("X-Linked-Size", str(len(whole)))
    request.send_header("Content-Length", str(len(data)))
    if wanted:
        request.send_header("Content-Range", f"bytes {start}-{len(whole) - 1}/{len(whole)}")
    request.end_headers()
    if body:
        hub.fetched.append((name, wanted))
        _send_body(hub, request, repo, name, data)


def _send_body(hub: Hub, request: BaseHTTPRequestHandler, repo: Repo, name: str, data: bytes) -> None:
    if repo.held is not None and _is_lfs(name):
        hub.asked.set()
        repo.held.wait(30)
    cuts = repo.cuts.get(name)
    if cuts:
        data = data[: cuts.pop(0)]
        request.close_connection = True
    try:
        request.wfile.write(data)
    except (BrokenPipeError, ConnectionResetError):
        request.close_connection = True
