"""A registry of some lines, in memory, over real HTTP: it can be told to lie, to refuse, and to ask who is there.

with SmallRegistry(Habits(ranges=False)) as registry:
    client.run("pull", f"{registry.address}/a:v1", ...)
    registry.requests          # [("GET", "/v2/a/manifests/v1", {"accept": ...}), ...]
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import ssl
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit


@dataclass(slots=True)
class Habits:
    """What this registry does differently."""

    ranges: bool = True
    #: status with which PATCH is refused, 0: it is not
    patch_refused: int = 0
    piece_bytes_min: int = 0
    #: so many requests are answered 429 with this Retry-After first
    busy: int = 0
    retry_after: str = "1"
    #: so many closing PUTs take effect without an answer: the connection just ends
    puts_unanswered: int = 0
    #: bytes of a blob as they are sent, instead of those that are stored
    blob: Callable[[bytes], bytes] = lambda content: content
    manifest: Callable[[bytes], bytes] = lambda content: content
    #: address that blobs are redirected to, "": they are not
    redirect: str = ""
    #: "basic" or "bearer"; the user is "ann", the password "secret:with:colons"
    asks_for: str = ""
    #: so many requests a token is good for
    token_uses: int = 1_000_000


@dataclass(slots=True)
class Content:
    blobs: dict[str, bytes] = field(default_factory=dict)
    #: by tag and by digest: media type and bytes
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)


class SmallRegistry:
    """All repositories are one."""

    def __init__(
        self, habits: Habits | None = None, content: Content | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.habits = habits or Habits()
        self.content = content or Content()
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        #: what was asked of the token service: its parameters, and the Authorization header
        self.tokens_asked: list[tuple[dict[str, list[str]], str]] = []
        #: PATCHes that are taken, ever; later ones are answered 503
        self.patches_max = 1_000_000
        self.token_uses: dict[str, int] = {}
        registry = self

        class Handler(_Handler):
            pass

        Handler.registry = registry
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def sent(self, method: str) -> list[tuple[str, str, dict[str, str]]]:
        return [request for request in self.requests if request[0] == method]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    registry: SmallRegistry

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PATCH = do_PUT = do_DELETE = do_GET

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        if parts.path == "/token":
            self._token(query or parse_qs(body.decode()), headers.get("authorization", ""))
            return
        self.registry.requests.append((self.command, self.path, headers))
        habits = self.registry.habits
        if habits.busy > 0:
            habits.busy -= 1
            self._answer(
                429, b'{"errors":[{"code":"TOOMANYREQUESTS","message":"later"}]}', Retry_After=habits.retry_after
            )
        elif not self._is_let_in(headers.get("authorization", "")):
            pass
        elif "/uploads/" in parts.path:
            self._upload(parts.path, query, body)
        elif "/blobs/" in parts.path:
            self._blob(parts.path.rpartition("/")[2])
        elif "/manifests/" in parts.path:
            self._manifest(parts.path.rpartition("/")[2], body)
        else:
            self._answer(404)

    def _is_let_in(self, authorization: str) -> bool:
        asks_for, address = self.registry.habits.asks_for, self.registry.address
        if asks_for == "basic":
            expected = base64.b64encode(b"ann:secret:with:colons").decode()
            if authorization == f"Basic {expected}":
                return True
            self._answer(401, WWW_Authenticate='Basic realm="here"')
            return False
        if asks_for == "bearer":
            token = authorization.removeprefix("Bearer ")
            left = self.registry.token_uses.get(token, 0)
            if left > 0:
                self.registry.token_uses[token] = left - 1
                return True
            challenge = f'Bearer realm="http://{address}/token",service="small, registry",scope="repository:a:pull"'
            self._answer(401, WWW_Authenticate=challenge)
            return False
        return True

    def _token(self, query: dict[str, list[str]], authorization: str) -> None:
        self.registry.tokens_asked.append((query, authorization))
        expected = "Basic " + base64.b64encode(b"ann:secret:with:colons").decode()
        if authorization not in ("", expected) or query.get("refresh_token", ["identity"]) != ["identity"]:
            self._answer(401, b'{"errors":[{"code":"UNAUTHORIZED","message":"wrong password"}]}')
            return
        token = uuid.uuid4().hex
        self.registry.token_uses[token] = self.registry.habits.token_uses
        name = "access_token" if "refresh_token" in query else "token"
        self._answer(200, json.dumps({name: token, "expires_in": 300}).encode())

    def _upload(self, path: str, query: dict[str, list[str]], body: bytes) -> None:
        habits, uploads = self.registry.habits, self.registry.content.uploads
        upload = path.rpartition("/")[2]
        if self.command == "POST":
            upload = uuid.uuid4().hex
            uploads[upload] = b""
            self._session(202, f"{path}{upload}", 0, OCI_Chunk_Min_Length=str(habits.piece_bytes_min))
        elif upload not in uploads:
            self._answer(404, b'{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":""}]}')
        elif self.command == "GET":
            self._session(204, path, len(uploads[upload]))
        elif self.command == "DELETE":
            del uploads[upload]
            self._answer(204)
        elif self.command == "PATCH" and habits.patch_refused:
            self._answer(habits.patch_refused, b'{"errors":[{"code":"UNSUPPORTED","message":"no pieces"}]}')
        elif self.command == "PATCH" and len(self.registry.sent("PATCH")) > self.registry.patches_max:
            self._answer(503)
        elif self.command == "PATCH":
            uploads[upload] += body
            self._session(202, path, len(uploads[upload]))
        else:
            content = uploads.pop(upload) + body
            (digest,) = query["digest"]
            if digest_of(content) != digest:
                self._answer(400, b'{"errors":[{"code":"DIGEST_INVALID","message":""}]}')
                return
            self.registry.content.blobs[digest] = content
            if habits.puts_unanswered > 0:
                habits.puts_unanswered -= 1
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self._answer(201, Docker_Content_Digest=digest)

    def _session(self, status: int, path: str, size: int, **headers: str) -> None:
        # Absolute, and with a query, as some are.
        location = f"http://{self.headers['Host']}{path}?state=1"
        self._answer(status, Location=location, Range=f"0-{max(0, size - 1)}", **headers)

    def _blob(self, digest: str) -> None:
        habits = self.registry.habits
        content = self.registry.content.blobs.get(digest)
        if content is None:
            self._answer(404)
        elif self.command == "HEAD":
            self._answer(200, Content_Length=str(len(content)))
        elif habits.redirect:
            self._answer(307, Location=f"http://{habits.redirect}/elsewhere/blobs/{digest}")
        else:
            content = habits.blob(content)
            asked = self.headers.get("Range", "")
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and habits.ranges else 0
            if start:
                self._answer(206, content[start:], Content_Range=f"bytes {start}-{len(content) - 1}/{len(content)}")
            else:
                self._answer(200, content)

    def _manifest(self, reference: str, body: bytes) -> None:
        manifests = self.registry.content.manifests
        if self.command == "PUT":
            entry = (self.headers["Content-Type"], body)
            manifests[reference] = manifests[digest_of(body)] = entry
            self._answer(201, Docker_Content_Digest=digest_of(body))
        elif reference in manifests:
            kind, content = manifests[reference]
            self._answer(200, self.registry.habits.manifest(content), Content_Type=kind)
        else:
            self._answer(404)

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in ({"Content-Length": str(len(body))} | named).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
