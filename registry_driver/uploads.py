"""Routes of uploads: /v2/<name>/blobs/uploads/ and the sessions below it."""

from __future__ import annotations

from werkzeug.wrappers import Response

from metaserver.interface import Blob
from registry_driver.calls import Call, answer
from registry_driver.driver import ByteSource
from registry_driver.names import (
    DigestInvalid,
    NameInvalid,
    algorithm_of,
    check_algorithm,
    check_digest,
    check_repository,
    is_upload_id,
    printable,
)
from registry_driver.oci_errors import SizeInvalid
from registry_driver.ranges import ByteRange, parse_content_range
from registry_driver.registry import Registry
from registry_driver.routes import blob_path, upload_path
from wire.body import RequestBody
from wire.errors import UploadUnknown

#: Smaller pieces are taken too; clients that read this header send larger ones, which make fewer fragments.
CHUNK_BYTES_MIN = 1 << 20

_EMPTY_DIGESTS = {
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e",
}


def post_upload(registry: Registry, call: Call) -> Response:
    """Open a session; or mount a blob (?mount=&from=); or push one whole (?digest= with a body)."""
    query = call.request.args
    algorithm = query.get("digest-algorithm")
    mount = query.get("mount")
    if mount is not None:
        blob = _mount(registry, call.repository, mount, query.get("from"))
        if blob is not None:
            return _created(call.repository, blob)
        # The client goes on with the same blob as an upload.
        algorithm = algorithm or (algorithm_of(mount) if _is_digest(mount) else None)
    digest = query.get("digest")
    if digest is not None:
        check_digest(digest)
        assert call.body is not None, "POST carries a body"
        # Without a body it opens a session: clients that know the digest early say so here and send the bytes later.
        if call.body.length != 0 or digest in _EMPTY_DIGESTS:
            return _created(call.repository, registry.push_blob(call.repository, digest, call.body))
        algorithm = algorithm or algorithm_of(digest)
    upload = registry.open_upload(call.repository, check_algorithm(algorithm or "sha256"))
    return answer(
        202, session_headers(call.repository, upload.upload_id, 0) | {"OCI-Chunk-Min-Length": str(CHUNK_BYTES_MIN)}
    )


def patch_upload(registry: Registry, call: Call) -> Response:
    """Append the body to the session."""
    _check_upload_id(call.reference)
    announced = _announced(call)
    assert call.body is not None, "PATCH carries a body"
    offset = registry.append(
        call.repository, call.reference, _source(call.body, announced), None if announced is None else announced.start
    )
    return answer(202, session_headers(call.repository, call.reference, offset))


def put_upload(registry: Registry, call: Call) -> Response:
    """Close the session, with the last bytes or without."""
    _check_upload_id(call.reference)
    digest = call.request.args.get("digest")
    if digest is None:
        raise DigestInvalid("an upload is closed with ?digest=<algorithm>:<hex>")
    check_digest(digest)
    announced = _announced(call)
    assert call.body is not None, "PUT carries a body"
    source = None if call.body.length == 0 else _source(call.body, announced)
    start = None if announced is None else announced.start
    return _created(call.repository, registry.finish_upload(call.repository, call.reference, digest, source, start))


def get_upload(registry: Registry, call: Call) -> Response:
    """How far the session is."""
    _check_upload_id(call.reference)
    upload = registry.upload(call.repository, call.reference)
    return answer(204, session_headers(call.repository, upload.upload_id, upload.offset))


def delete_upload(registry: Registry, call: Call) -> Response:
    _check_upload_id(call.reference)
    registry.cancel_upload(call.repository, call.reference)
    return answer(204, {})


def session_headers(repository: str, upload_id: str, offset: int) -> dict[str, str]:
    """Where a session is and which bytes it has. docker takes the last one plus one for the layer's size; nothing is
    "0-0" for want of a form."""
    return {
        "Location": upload_path(repository, upload_id),
        "Range": f"0-{max(0, offset - 1)}",
        "Docker-Upload-UUID": upload_id,
    }


class ExactSource:
    """A body that must have exactly the bytes its Content-Range announces. Raises SizeInvalid where it does not."""

    def __init__(self, body: ByteSource, length: int) -> None:
        self._body = body
        self._length = length
        self._left = length

    def readinto(self, buffer: memoryview) -> int:
        if self._left == 0:
            # Bytes beyond the announced ones are looked for, and refused, without being kept.
            if self._body.readinto(memoryview(bytearray(1))):
                raise SizeInvalid(f"the body has more than the {self._length} bytes of its Content-Range")
            return 0
        count = self._body.readinto(buffer[: self._left])
        if count == 0:
            raise SizeInvalid(
                f"the body has {self._length - self._left} bytes instead of the {self._length} of its Content-Range"
            )
        self._left -= count
        return count


def _mount(registry: Registry, repository: str, digest: str, source: str | None) -> Blob | None:
    """Whatever stands in the way of a mount, the client may upload the blob: docker and others take any other answer
    for the end."""
    if not _is_digest(digest):
        return None
    try:
        return registry.mount(repository, digest, None if source is None else check_repository(source))
    except NameInvalid:
        return None


def _is_digest(text: str) -> bool:
    try:
        check_digest(text)
    except DigestInvalid:
        return False
    return True


def _created(repository: str, blob: Blob) -> Response:
    return answer(201, {"Location": blob_path(repository, blob.digest), "Docker-Content-Digest": blob.digest})


def _check_upload_id(upload_id: str) -> None:
    if not is_upload_id(upload_id):
        raise UploadUnknown("there is no such upload", upload_id=printable(upload_id))


def _announced(call: Call) -> ByteRange | None:
    """The body's Content-Range. Raises ContentRangeInvalid, SizeInvalid (the Content-Length is another one)."""
    announced = parse_content_range(call.request.headers.get("Content-Range"))
    length = None if call.body is None else call.body.length
    if announced is not None and length is not None and length != announced.length:
        raise SizeInvalid(f"Content-Range has {announced.length} bytes, Content-Length {length}")
    return announced


def _source(body: RequestBody, announced: ByteRange | None) -> ByteSource:
    return body if announced is None else ExactSource(body, announced.length)
