"""A client for the specification: each request reaches the next front end, on a connection of its own."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.registry.client import Client, Reply
from tests.registry.documents import descriptor, encoded, image, sha256

ALGORITHMS = ("sha256", "sha512")


def digest_of(content: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


class Api(Client):
    """`urls` are the front ends; what one of them has answered, the others must know."""

    def __init__(self, urls: Sequence[str]) -> None:
        parts = [urlsplit(url) for url in urls]
        addresses = [(str(part.hostname), int(part.port or 80)) for part in parts]
        super().__init__(*addresses[0], Path())
        self.fronts = len(addresses)
        self._turns = itertools.cycle([Client(*address, Path()) for address in addresses])

    def send(
        self,
        method: str,
        path: str,
        body: bytes | Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        turn = next(self._turns)
        try:
            return turn.send(method, path, body, headers)
        finally:
            turn.close()

    def statuses(self, method: str, path: str) -> set[int]:
        """What each of the front ends answers."""
        return {self.send(method, path).status for _ in range(self.fronts)}

    def close_upload(self, location: str, digest: str, body: bytes = b"", **headers: str) -> Reply:
        """The closing PUT; `headers` with _ for -."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.send("PUT", f"{location}{'&' if '?' in location else '?'}digest={digest}", body, named)

    def patch(self, location: str, body: bytes, first: int) -> Reply:
        return self.send("PATCH", location, body, {"Content-Range": f"{first}-{first + len(body) - 1}"})

    def blob_is(self, repository: str, content: bytes, algorithm: str = "sha256") -> bool:
        """Whether every front end gives `content` under its digest (True) or none has it (False)."""
        digest = digest_of(content, algorithm)
        replies = [self.send("GET", f"/v2/{repository}/blobs/{digest}") for _ in range(self.fronts)]
        if all(reply.status == 404 for reply in replies):
            return False
        assert all((reply.status, reply.body) == (200, content) for reply in replies), replies
        return True

    def config(self, repository: str) -> dict[str, Any]:
        """A manifest whose config is there, without layers."""
        config = os.urandom(16)
        self.push(repository, config)
        return image(config)

    def push_document(self, repository: str, document: dict[str, Any], reference: str | None = None) -> str:
        """Push a manifest under `reference` (its digest when None); its digest."""
        body = encoded(document)
        reply = self.put_manifest(repository, reference or sha256(body), body)
        assert reply.status == 201, reply
        return sha256(body)

    def referring(self, repository: str, subject: bytes, media_type: str, **extra: Any) -> tuple[dict[str, Any], str]:
        """Push a manifest whose subject is the manifest `subject`; it and its digest."""
        document = self.config(repository) | {"subject": descriptor(subject, media_type)} | extra
        return document, self.push_document(repository, document)


def blob_path(repository: str, digest: str) -> str:
    return f"/v2/{repository}/blobs/{digest}"


def manifest_path(repository: str, reference: str) -> str:
    return f"/v2/{repository}/manifests/{reference}"


def uploads_path(repository: str, query: str = "") -> str:
    return f"/v2/{repository}/blobs/uploads/{query}"
