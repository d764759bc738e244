"""One repository of a registry: the calls of the OCI distribution API that a transfer makes, each tried once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from speedy.transfer.connection import Answer, Body, Connection
from speedy.transfer.documents import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    DOCUMENT_BYTES_MAX,
    OCI_ARTIFACT,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Document,
    digest_of,
    parse_document,
)
from speedy.transfer.errors import Damaged, Refused, Unreachable

_ACCEPT: Final = ", ".join((OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST, OCI_ARTIFACT))
_NO_BYTES: Final = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
_OCTETS: Final = {"Content-Type": "application/octet-stream"}
_RANGE = re.compile(r"(?:bytes=)?0-(\d+)")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


@dataclass(frozen=True, slots=True)
class Session:
    """An upload: where its next request goes, and how many bytes the registry has, None where the answer does not tell.

    "0-0" is what registries say for no byte and for one: `offset` is 0 for both.
    """

    location: str
    offset: int | None
    #: smallest piece that the registry wants, bytes
    piece_bytes_min: int = 0


class Repository:
    """`may_write` decides which rights are asked for."""

    def __init__(self, connection: Connection, name: str, *, may_write: bool) -> None:
        self._connection = connection
        self.name = name
        self._scopes = frozenset({f"repository:{name}:{'pull,push' if may_write else 'pull'}"})

    def greet(self) -> None:
        """Raises Refused where the caller is not let in. Asks for a blob, as transfers do: /v2/ alone tells nothing of
        this repository."""
        self.has_blob(_NO_BYTES, 0)

    def has_blob(self, digest: str, size: int) -> bool:
        """Raises Damaged where the registry has it in another size: one of the two is not what it says."""
        try:
            with self._call("HEAD", f"blobs/{digest}") as answer:
                length = answer.headers.get("Content-Length", "")
        except Refused as error:
            if error.answered == 404:
                return False
            raise
        if length.isdigit() and int(length) != size:
            raise Damaged(f"{self.name}: the registry has {digest} with {length} bytes instead of {size}")
        return True

    def read_blob(self, digest: str, start: int) -> tuple[Answer, int]:
        """The answer to read from, and where its bytes begin: at `start`, or at 0 where ranges are not supported.

        416 is Refused: there is nothing from `start` on.
        """
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        answer = self._call("GET", f"blobs/{digest}", headers=headers, accept=frozenset({200, 206}))
        if answer.status == 200:
            return answer, 0
        found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != start:
            answer.close()
            raise Damaged(f"{answer.where}: asked for bytes from {start}, got {answer.headers.get('Content-Range')!r}")
        return answer, start

    def small_blob(self, blob: Descriptor) -> bytes:
        """All of it, as large as a manifest may be at most. Raises Damaged where the bytes have another digest."""
        answer, _ = self.read_blob(blob.digest, 0)
        with answer:
            content = answer.body(DOCUMENT_BYTES_MAX)
        found = digest_of(content, blob.digest.partition(":")[0])
        if found != blob.digest:
            raise Damaged(f"{self.name}: the registry's bytes for {blob.digest} have the digest {found}")
        return content

    def open_upload(self, digest: str, source: str | None = None) -> Session | None:
        """A new session; or None: the blob was mounted from the repository `source`."""
        parts = []
        scopes = self._scopes
        if source is not None:
            parts += [f"mount={quote(digest)}", f"from={quote(source, safe='')}"]
            scopes |= {f"repository:{source}:pull"}
        if not digest.startswith("sha256:"):
            parts.append(f"digest-algorithm={digest.partition(':')[0]}")
        answer = self._connection.call(
            "POST",
            f"/v2/{self.name}/blobs/uploads/{'?' if parts else ''}{'&'.join(parts)}",
            scopes=scopes,
            accept=frozenset({201, 202}),
        )
        with answer:
            if answer.status == 201:
                return None
            return self._session(answer)

    def upload_status(self, location: str) -> Session:
        with self._call_at("GET", location, accept=frozenset({200, 202, 204})) as answer:
            return self._session(answer, location)

    def append(self, location: str, start: int, end: int, body: Body) -> Session:
        """PATCH with the bytes [start, end)."""
        headers = _OCTETS | {"Content-Range": f"{start}-{end - 1}"}
        accept = frozenset({200, 201, 202, 204})
        with self._call_at("PATCH", location, headers=headers, body=body, length=end - start, accept=accept) as answer:
            return self._session(answer, location)

    def close_upload(self, location: str, digest: str, body: Body | None = None, length: int = 0) -> None:
        """PUT, with all bytes or with none."""
        target = f"{location}{'&' if '?' in location else '?'}digest={quote(digest)}"
        accept = frozenset({200, 201, 202, 204})
        with self._call_at("PUT", target, headers=_OCTETS, body=body, length=length, accept=accept) as answer:
            told = answer.headers.get("Docker-Content-Digest", digest)
        if told.partition(":")[0] == digest.partition(":")[0] and told != digest:
            raise Damaged(f"{self.name}: the registry says that it stored {told} instead of {digest}")

    def cancel_upload(self, location: str) -> None:
        self._call_at("DELETE", location, accept=frozenset({200, 202, 204})).close()

    def manifest(self, reference: str) -> Document:
        """By tag or digest. Raises Damaged where the bytes have another digest than was asked for or announced."""
        with self._call("GET", f"manifests/{reference}", headers={"Accept": _ACCEPT}) as answer:
            content = answer.body(DOCUMENT_BYTES_MAX)
            announced = reference if ":" in reference else answer.headers.get("Docker-Content-Digest", "")
            return parse_document(content, answer.headers.get("Content-Type", ""), announced)

    def put_manifest(self, reference: str, document: Document) -> bool:
        """Whether the registry keeps track of the subject by itself (True too where there is none)."""
        with self._call(
            "PUT",
            f"manifests/{reference}",
            headers={"Content-Type": document.descriptor.media_type},
            body=lambda: [document.content],
            length=len(document.content),
            accept=frozenset({200, 201, 202}),
        ) as answer:
            told = answer.headers.get("Docker-Content-Digest", "")
            expected = document.descriptor.digest
            if told.partition(":")[0] == expected.partition(":")[0] and told != expected:
                raise Damaged(f"{self.name}: the registry says that it stored {told} instead of {expected}")
            return document.subject is None or "OCI-Subject" in answer.headers

    def referrers(self, digest: str) -> Document | None:
        """The index of what refers to `digest`; None where the registry does not know such a thing."""
        try:
            with self._call("GET", f"referrers/{digest}", headers={"Accept": OCI_INDEX}) as answer:
                kind = answer.headers.get("Content-Type", "").partition(";")[0].strip()
                return parse_document(answer.body(DOCUMENT_BYTES_MAX), kind) if kind == OCI_INDEX else None
        except Refused as error:
            if error.answered in (400, 404, 405):
                return None
            raise

    def _call(
        self,
        method: str,
        rest: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        length: int = 0,
        accept: frozenset[int] = frozenset({200}),
    ) -> Answer:
        target = f"/v2/{self.name}/{rest}"
        return self._call_at(method, target, headers=headers, body=body, length=length, accept=accept)

    def _call_at(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        length: int = 0,
        accept: frozenset[int],
    ) -> Answer:
        return self._connection.call(
            method, target, scopes=self._scopes, headers=headers, body=body, length=length, accept=accept
        )

    def _session(self, answer: Answer, location: str = "") -> Session:
        named = answer.headers.get("Location") or location
        if not named:
            raise Unreachable(f"{answer.where}: the answer names no Location for the upload")
        found = _RANGE.fullmatch(answer.headers.get("Range", "").strip())
        last = None if found is None else int(found[1])
        least = answer.headers.get("OCI-Chunk-Min-Length", "")
        return Session(
            # Against the address that was asked: a Location may be relative to wherever the last one led.
            location=self._connection.resolve_from(answer.url, named),
            offset=None if last is None else last + 1 if last else 0,
            piece_bytes_min=int(least) if least.isdigit() else 0,
        )
