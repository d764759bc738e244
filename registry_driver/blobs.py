"""Routes of blobs: /v2/<name>/blobs/<digest>."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from typing import TypeAlias
from uuid import uuid4

from werkzeug.wrappers import Response

from registry_driver.calls import Call, answer, conditions, head_answer, not_modified
from registry_driver.names import check_digest
from registry_driver.ranges import ByteRange, parse_range
from registry_driver.registry import Registry
from registry_driver.stored_files import ByteStream
from wire.response import StreamResponse

_OCTETS = "application/octet-stream"

#: (offset, length) -> those bytes of the blob that a request is about
ReadBytes: TypeAlias = Callable[[int, int], ByteStream]


def get_blob(registry: Registry, call: Call) -> Response:
    """GET and HEAD. HEAD reads metadata only, and is how clients learn what they need not push."""
    digest = check_digest(call.reference)
    is_head = call.request.method == "HEAD"
    blob = registry.whole_blob(call.repository, digest) if is_head else registry.blob(call.repository, digest)
    etag = f'"{blob.digest}"'
    headers = {"Docker-Content-Digest": blob.digest, "ETag": etag, "Accept-Ranges": "bytes"}
    if not_modified(call, etag):
        return answer(304, headers)
    headers["Content-Type"] = _OCTETS
    if is_head:
        return head_answer(headers, blob.size)
    read = partial(registry.read_blob, call.repository, blob)
    given = call.request.headers
    ranges = parse_range(given.get("Range"), blob.size) if given.get("If-Range", etag) == etag else None
    if ranges is None:
        return _stream(read, ByteRange(0, blob.size), 200, headers)
    if len(ranges) == 1:
        headers["Content-Range"] = _content_range(ranges[0], blob.size)
        return _stream(read, ranges[0], 206, headers)
    return _multipart(read, blob.size, ranges, headers)


def delete_blob(registry: Registry, call: Call) -> Response:
    registry.delete_blob(call.repository, check_digest(call.reference), conditions(call))
    return answer(202, {})


def _stream(read: ReadBytes, part: ByteRange, status: int, headers: dict[str, str]) -> Response:
    if part.length == 0:
        return answer(status, headers)
    stream = read(part.start, part.length)
    return StreamResponse(stream, status=status, headers=headers, length=part.length)


def _multipart(read: ReadBytes, size: int, ranges: list[ByteRange], headers: dict[str, str]) -> Response:
    """multipart/byteranges (RFC 9110, 14.6), for clients that fetch the missing pieces of a layer."""
    boundary = uuid4().hex
    opening = f"\r\n--{boundary}\r\nContent-Type: {_OCTETS}\r\nContent-Range: "
    heads = [f"{opening}{_content_range(part, size)}\r\n\r\n".encode() for part in ranges]
    tail = f"\r\n--{boundary}--\r\n".encode()
    length = sum(map(len, heads)) + sum(part.length for part in ranges) + len(tail)
    headers["Content-Type"] = f"multipart/byteranges; boundary={boundary}"
    # The first part is opened here: what cannot be read gets a status of its own.
    first = read(ranges[0].start, ranges[0].length)
    stream = ByteStream(_parts(read, list(zip(ranges, heads, strict=True)), tail, first))
    return StreamResponse(stream, status=206, headers=headers, length=length)


def _parts(
    read: ReadBytes, parts: list[tuple[ByteRange, bytes]], tail: bytes, first: ByteStream
) -> Generator[memoryview, None, None]:
    stream: ByteStream | None = first
    for part, head in parts:
        with closing(stream or read(part.start, part.length)) as opened:
            yield memoryview(head)
            yield from opened
        stream = None
    yield memoryview(tail)


def _content_range(part: ByteRange, size: int) -> str:
    return f"bytes {part.start}-{part.last}/{size}"
