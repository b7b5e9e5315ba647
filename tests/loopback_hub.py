"""A small Hugging Face hub on 127.0.0.1: as much of its protocol as the download of single files needs.

It keeps models in memory as commits with branches on them, writes down every request, and can misbehave: ask for a
token, break off in the middle of a file, be down.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

RESOLVE = re.compile(r"/(?P<model>[^/]+(?:/[^/]+)?)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    model: str | None = None
    revision: str | None = None
    file: str | None = None


@dataclass
class Model:
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    token: str | None = None  # gated: only whoever sends this one may read
    refusal: str = "GatedRepo"  # what is said without that token


class LoopbackHub:
    """`with LoopbackHub() as hub`: it listens at `hub.url` until the end of the block, or until `hub.close()`."""

    def __init__(self) -> None:
        self.models: dict[str, Model] = {}
        self.requests: list[Request] = []
        self.breaking: set[str] = set()  # files that break off in the middle
        self.before_answer: Callable[[Request], None] = lambda request: None

        class Handler(_Handler):
            hub = self

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)  # port 0: any that is free
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self) -> LoopbackHub:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Be down: from now on connections are refused."""
        if self.thread.is_alive():
            self.server.shutdown()
            self.thread.join()
            self.server.server_close()

    def publish(self, name: str, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Make a new commit that holds just these files, and let the branch point to it."""
        model = self.models.setdefault(name, Model())
        commit = hashlib.sha1(f"{name} {len(model.commits)}".encode()).hexdigest()
        model.commits[commit] = dict(files)
        model.branches[branch] = commit
        return commit

    def asked(self) -> set[str]:
        """The files that anything was asked about."""
        return {request.file for request in self.requests if request.file is not None}

    def fetched(self) -> set[str]:
        """The files whose contents were asked for."""
        return {request.file for request in self.requests if request.file is not None and request.method == "GET"}


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = urlsplit(self.path).path
        match = RESOLVE.fullmatch(path)
        parts = {key: unquote(value) for key, value in match.groupdict().items()} if match else {}
        request = Request(self.command, path, **parts)
        self.hub.requests.append(request)
        self.hub.before_answer(request)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        model = self.hub.models.get(request.model or "")
        if model is None:
            return self.refuse(404 if token else 401, "RepoNotFound")
        if model.token is not None and token != model.token:
            return self.refuse(403 if token else 401, model.refusal)
        commit = model.branches.get(request.revision or "", request.revision or "")
        if commit not in model.commits:
            return self.refuse(404, "RevisionNotFound")
        content = model.commits[commit].get(request.file or "")
        if content is None:
            return self.refuse(404, "EntryNotFound", {"X-Repo-Commit": commit})
        return self.give(request.file in self.hub.breaking, commit, content)

    def refuse(self, status: int, code: str, headers: Mapping[str, str] | None = None) -> None:
        self.begin(status, {"X-Error-Code": code, "X-Error-Message": code, "Content-Length": 0, **(headers or {})})

    def give(self, breaking: bool, commit: str, content: bytes) -> None:
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        headers = {"ETag": etag, "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        headers |= {"X-Linked-ETag": etag, "X-Linked-Size": str(len(content))}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(wanted[1]) if wanted else 0
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.begin(206 if wanted else 200, {**headers, "Content-Length": len(content) - start})
        if self.command == "GET":
            self.wfile.write(content[start : len(content) // 2 if breaking else None])

    def begin(self, status: int, headers: Mapping[str, Any]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.send_header("Connection", "close")  # else an open connection would outlive `close`
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass  # `requests` is the log
