"""What docs/api.md says is what the program does: every route, answer, error and limit, and nothing else."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest
import werkzeug.exceptions

import registry_driver.app
from metaserver.interface import REFERENCES_MAX
from registry_driver import listings, manifests, names, oci_errors, ranges, uploads
from registry_driver.registry import RegistryLimits
from registry_driver.routes import parse_route
from tests.registry import api_document
from tests.registry.client import Client
from tests.registry.codes import CODES
from tests.registry.documents import encoded, image, sha256
from wire import errors, server, worker
from wire.settings import RegistrySettings

EXAMPLES = {"<name>": "a/b", "<digest>": sha256(b""), "<reference>": "v1", "<upload>": str(uuid.UUID(int=1, version=4))}
BESIDE_THE_API = ("/healthz", "/readyz", "/metrics")

BLOB, MANIFEST, UPLOAD = "/v2/{name}/blobs/", "/v2/{name}/manifests/", "/v2/{name}/blobs/uploads/{upload}"
EMPTY_INDEX = encoded({"schemaVersion": 2, "manifests": []})
LISTED = encoded(image(b"?", layers=[]))  # its config is nowhere


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that gets `status` and, if that is an error, `code`. The path may name what `prepared` has made."""

    method: str
    path: str
    status: int
    code: str = ""
    body: bytes = b""
    headers: Mapping[str, str] | None = None

    @property
    def noun(self) -> str:
        examples = {"name": "a", "blob": "x", "tag": "x", "manifest": "x", "upload": "x"}
        return parse_route(self.path.partition("?")[0].format(**examples).removeprefix("/v2/"), "").noun


def _reads(path: str, status: int, code: str = "", headers: Mapping[str, str] | None = None) -> list[Asked]:
    return [Asked(method, path, status, code, headers=headers) for method in ("GET", "HEAD")]


_LATER = {"Content-Range": "5-6"}
_NOT_SO_LONG = {"Content-Range": "0-6"}
_NO_RANGE = {"Content-Range": "x"}
_JSON = {"Content-Type": "application/json"}

ASKED: list[Asked] = [
    *_reads("/v2/", 200),
    *_reads("/v2/_catalog", 200),
    *_reads("/v2/_catalog?n=x", 400, "UNSUPPORTED"),
    *_reads("/v2/{name}/tags/list", 200),
    *_reads("/v2/{name}/tags/list?n=-1", 400, "UNSUPPORTED"),
    *_reads("/v2/{name}/none/tags/list", 404, "NAME_UNKNOWN"),
    *_reads("/v2/{name}/referrers/{manifest}", 200),
    *_reads("/v2/{name}/referrers/x", 400, "DIGEST_INVALID"),
    *_reads("/v2/{name}/referrers/{manifest}?last=%01", 400, "UNSUPPORTED"),
    *_reads(BLOB + "{blob}", 200),
    *_reads(BLOB + "{blob}", 304, headers={"If-None-Match": "*"}),
    *_reads(BLOB + "{blob}", 412, "DENIED", headers={"If-Match": '"x"'}),
    *_reads(BLOB + "sha256:0", 400, "DIGEST_INVALID"),
    *_reads(BLOB + sha256(b"?"), 404, "BLOB_UNKNOWN"),
    Asked("GET", BLOB + "{blob}", 206, headers={"Range": "bytes=1-2"}),
    Asked("GET", BLOB + "{blob}", 416, "SIZE_INVALID", headers={"Range": "bytes=99-"}),
    Asked("DELETE", BLOB + "{blob}", 202),
    Asked("DELETE", BLOB + "sha256:0", 400, "DIGEST_INVALID"),
    Asked("DELETE", BLOB + sha256(b"?"), 404, "BLOB_UNKNOWN"),
    Asked("DELETE", BLOB + "{blob}", 412, "DENIED", headers={"If-None-Match": "*"}),
    Asked("POST", BLOB + "uploads/", 202),
    Asked("POST", BLOB + "uploads/?mount={blob}", 201),
    Asked("POST", BLOB + "uploads/?digest=" + sha256(b"?"), 400, "DIGEST_INVALID", b"!"),
    Asked("POST", BLOB + "uploads/?digest=" + sha256(b"?"), 400, "SIZE_INVALID", b"?", {"Content-Length": "2"}),
    *_reads(UPLOAD, 204),
    *_reads(UPLOAD + "0", 404, "BLOB_UPLOAD_UNKNOWN"),
    Asked("PATCH", UPLOAD, 202, "", b"x"),
    Asked("PATCH", UPLOAD, 400, "BLOB_UPLOAD_INVALID", b"x", _NO_RANGE),
    Asked("PATCH", UPLOAD, 400, "SIZE_INVALID", b"x", _NOT_SO_LONG),
    Asked("PATCH", UPLOAD + "0", 404, "BLOB_UPLOAD_UNKNOWN", b"x"),
    Asked("PATCH", UPLOAD, 416, "BLOB_UPLOAD_INVALID", b"xx", _LATER),
    Asked("PUT", UPLOAD + "?digest=" + sha256(b"?"), 201, "", b"?"),
    Asked("PUT", UPLOAD + "?digest=" + sha256(b"?"), 400, "BLOB_UPLOAD_INVALID", b"?", _NO_RANGE),
    Asked("PUT", UPLOAD, 400, "DIGEST_INVALID", b"?"),
    Asked("PUT", UPLOAD + "?digest=" + sha256(b"?"), 400, "SIZE_INVALID", b"?", _NOT_SO_LONG),
    Asked("PUT", UPLOAD + "0?digest=" + sha256(b"?"), 404, "BLOB_UPLOAD_UNKNOWN", b"?"),
    Asked("PUT", UPLOAD + "?digest=" + sha256(b"??"), 416, "BLOB_UPLOAD_INVALID", b"??", _LATER),
    Asked("DELETE", UPLOAD, 204),
    Asked("DELETE", UPLOAD + "0", 404, "BLOB_UPLOAD_UNKNOWN"),
    *_reads(MANIFEST + "{tag}", 200),
    *_reads(MANIFEST + "{manifest}", 304, headers={"If-None-Match": "*"}),
    *_reads(MANIFEST + "sha256:0", 400, "DIGEST_INVALID"),
    *_reads(MANIFEST + "{tag}0", 404, "MANIFEST_UNKNOWN"),
    *_reads(MANIFEST + "{tag}", 412, "DENIED", headers={"If-Match": '"x"'}),
    Asked("PUT", MANIFEST + "v1", 201, "", EMPTY_INDEX, _JSON),
    Asked("PUT", MANIFEST + sha256(b"?"), 400, "DIGEST_INVALID", LISTED),
    Asked("PUT", MANIFEST + "v1", 400, "MANIFEST_BLOB_UNKNOWN", LISTED),
    Asked("PUT", MANIFEST + "v1", 400, "MANIFEST_INVALID", b"{"),
    Asked("PUT", MANIFEST + "{tag}", 412, "DENIED", EMPTY_INDEX, _JSON | {"If-None-Match": "*"}),
    Asked("PUT", MANIFEST + "v1", 413, "SIZE_INVALID", b" " * (4 * 1024 * 1024 + 1)),
    Asked("PUT", MANIFEST + "v1?" + "&".join(f"tag=v{n}" for n in range(65)), 414, "MANIFEST_INVALID", LISTED),
    Asked("DELETE", MANIFEST + "{manifest}", 202),
    Asked("DELETE", MANIFEST + "sha256:0", 400, "DIGEST_INVALID"),
    Asked("DELETE", MANIFEST + "{tag}0", 404, "MANIFEST_UNKNOWN"),
    Asked("DELETE", MANIFEST + "{tag}", 412, "DENIED", headers={"If-Match": '"x"'}),
]


@pytest.fixture
def prepared(client: Client, repository: str) -> dict[str, str]:
    """What the paths of ASKED name, in a repository of the test's own."""
    _, manifest = client.push_image(repository, "v1")
    blob = client.push(repository, os.urandom(10))
    upload = client.open_upload(repository).rpartition("/")[2]
    return {"name": repository, "blob": blob, "tag": "v1", "manifest": manifest, "upload": upload}


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: f"{asked.method} {asked.noun} {asked.status} {asked.code}")
def test_each_answer_of_the_table_is_given(client: Client, prepared: dict[str, str], asked: Asked) -> None:
    if asked.headers is not None and "Content-Length" in asked.headers:
        with client.socket() as sock:  # announces more than it sends
            head = f"{asked.method} {asked.path.format(**prepared)} HTTP/1.1\r\nHost: x\r\n"
            sock.sendall(f"{head}Content-Length: {asked.headers['Content-Length']}\r\n\r\n".encode() + asked.body)
            sock.shutdown(1)
            answered = sock.makefile("rb").read()
        assert answered.startswith(f"HTTP/1.1 {asked.status} ".encode())
        assert json.loads(answered.partition(b"\r\n\r\n")[2])["errors"][0]["code"] == asked.code
        return
    reply = client.send(asked.method, asked.path.format(**prepared), asked.body or None, asked.headers)
    assert reply.status == asked.status, reply
    if asked.code and asked.method != "HEAD":
        assert reply.code() == asked.code


def test_the_table_has_every_answer_and_error_of_every_route() -> None:
    given: set[tuple[str, str, int, str]] = {(one.method, one.noun, one.status, one.code) for one in ASKED}
    told: set[tuple[str, str, int, str]] = set()
    for endpoint in api_document.endpoints():
        if endpoint.path in BESIDE_THE_API:
            continue
        for method in endpoint.methods:
            noun = parse_route(_example(endpoint.path).removeprefix("/v2/"), "").noun
            told |= {(method, noun, status, "") for status in endpoint.answers}
            told |= {(method, noun, *error) for error in endpoint.errors if error[0] != 507}  # TestFullStore
    # HEAD knows no ranges: it is answered for the whole blob.
    assert told - given == {("HEAD", "blob", 206, ""), ("HEAD", "blob", 416, "SIZE_INVALID")}
    assert given <= told


def test_the_table_has_every_route_and_method() -> None:
    told = [(_example(one.path), method) for one in api_document.endpoints() for method in one.methods]
    nouns = {
        (parse_route(path.removeprefix("/v2/"), "").noun, method) for path, method in told if path.startswith("/v2/")
    }
    assert nouns == {(noun, method) for noun, actions in registry_driver.app.ACTIONS.items() for method in actions}
    assert {path for path, _ in told if not path.startswith("/v2/")} == set(BESIDE_THE_API)
    assert len(told) == len(set(told))


def test_the_table_has_every_error() -> None:
    ours = [kind for kind in _classes(errors.SpeedyError) if kind.__module__.startswith(("wire.", "registry_driver."))]
    raised: list[BaseException] = [kind("", offset=1, digests=["x"]) for kind in ours]
    raised += [werkzeug.exceptions.NotFound(), werkzeug.exceptions.MethodNotAllowed(), KeyError()]
    told = [oci_errors.error_answer(each) for each in raised]
    assert api_document.errors() == {(each.status, json.loads(each.body)["errors"][0]["code"]) for each in told}


def test_every_error_of_a_route_is_explained() -> None:
    for endpoint in api_document.endpoints():
        assert endpoint.errors <= api_document.errors(), endpoint


def test_below_500_every_code_is_of_the_specification() -> None:
    for status, code in api_document.errors() | api_document.parser_refusals():
        assert status >= 500 or code in CODES, code


def test_the_parsers_refusals_are_told() -> None:
    late_head = {(408, "UNSUPPORTED")}
    refusals = {(status, code) for _, status, code in worker._REFUSALS if status != 500}
    assert api_document.parser_refusals() == refusals | late_head


def test_the_limits_are_the_programs() -> None:
    limits, settings = RegistryLimits(), RegistrySettings()
    assert [limit for _, limit in api_document.limits()] == [
        names.REPOSITORY_CHARS_MAX,
        names.TAG_CHARS_MAX,
        manifests.TAGS_MAX,
        settings.manifest_bytes_max,
        REFERENCES_MAX,
        oci_errors.MISSING_LISTED_MAX,
        listings.TAGS_PAGE_MAX,
        listings.REPOSITORIES_PAGE_MAX,
        listings.REFERRERS_PAGE_BYTES,
        ranges.RANGES_MAX,
        uploads.CHUNK_BYTES_MIN,
        limits.upload_fragments_max,
        limits.rehash_bytes_max,
        server.REQUEST_LINE_BYTES_MAX,
        worker.HEAD_BYTES_MAX,
    ]


def _example(path: str) -> str:
    for name, example in EXAMPLES.items():
        path = path.replace(name, example)
    return path


def _classes(root: type[errors.SpeedyError]) -> Iterator[type[errors.SpeedyError]]:
    yield root
    for child in root.__subclasses__():
        yield from _classes(child)
