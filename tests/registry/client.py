"""A client of /v2/ that hides nothing: what is sent and what comes back are seen as they are."""

from __future__ import annotations

import http.client
import json
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.registry.documents import encoded, image, sha256
from tests.wire.serving import Server

TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def location(self) -> str:
        return str(self.headers["Location"])

    def code(self) -> str:
        """The OCI code of an error; asserts the form of the whole answer."""
        assert self.headers["Content-Type"] == "application/json"
        assert self.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
        told = self.json()
        assert list(told) == ["errors"]
        assert told["errors"]
        for entry in told["errors"]:
            assert set(entry) == {"code", "message", "detail"}
            assert entry["message"]
        return str(told["errors"][0]["code"])


class Client:
    def __init__(self, host: str, port: int, directory: Path) -> None:
        self.host, self.port, self.directory = host, port, directory
        self._connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)

    def again(self) -> Client:
        return Client(self.host, self.port, self.directory)

    def close(self) -> None:
        self._connection.close()

    def send(
        self,
        method: str,
        path: str,
        body: bytes | Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """One request on the kept connection; a body that is an iterator is sent in chunked encoding."""
        chunked = body is not None and not isinstance(body, bytes)
        try:
            self._connection.request(method, path, body, dict(headers or {}), encode_chunked=chunked)
            response = self._connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        except BaseException:
            self._connection.close()  # else every later request fails too, and hides what failed first
            raise

    def socket(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout=TIMEOUT_S)

    def open_upload(self, repository: str, query: str = "") -> str:
        reply = self.send("POST", f"/v2/{repository}/blobs/uploads/{query}", b"")
        assert reply.status == 202, reply
        return reply.location

    def push(self, repository: str, content: bytes) -> str:
        digest = sha256(content)
        reply = self.send("POST", f"/v2/{repository}/blobs/uploads/?digest={digest}", content)
        assert reply.status == 201, reply
        return digest

    def push_image(self, repository: str, reference: str, **extra: Any) -> tuple[bytes, str]:
        """An image of one config and one layer; its bytes and digest."""
        config, layer = os.urandom(16), os.urandom(64)
        self.push(repository, config)
        self.push(repository, layer)
        body = encoded(image(config, layer, **extra))
        reply = self.put_manifest(repository, reference, body)
        assert reply.status == 201, reply
        return body, sha256(body)

    def put_manifest(self, repository: str, reference: str, body: bytes, media_type: str | None = None) -> Reply:
        told = media_type if media_type is not None else json.loads(body)["mediaType"]
        return self.send("PUT", f"/v2/{repository}/manifests/{reference}", body, {"Content-Type": told})

    @contextmanager
    def fault(self, name: str, text: str = "") -> Iterator[None]:
        """While the block runs, the store has this fault (tests.registry.memory_images)."""
        path = self.directory / name
        path.write_text(text)
        try:
            yield
        finally:
            path.unlink()

    def told(self, name: str) -> int:
        path = self.directory / name
        return int(path.read_text() or 0) if path.exists() else 0


def client_of(server: Server, directory: Path) -> Client:
    return Client(server.host, server.port, directory)


@contextmanager
def faults_directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="speedy-registry-") as directory:
        yield Path(directory)


def read_reply(sock: socket.socket, method: str = "GET") -> Reply:
    """The answer to a request of `method` that comes on a raw socket."""
    response = http.client.HTTPResponse(sock, method=method)
    response.begin()
    return Reply(response.status, response.headers, response.read())
