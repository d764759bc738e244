"""Pull: what the specification says of GET and HEAD, named by heading."""

from __future__ import annotations

import os

import pytest

from registry_driver.manifest_document import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from tests.conformance.api import ALGORITHMS, Api, blob_path, digest_of, manifest_path
from tests.registry.documents import encoded, index, sha256

CONTENT = os.urandom(200_000)  # several chunks


def push_blob(api: Api, repository: str, content: bytes, algorithm: str) -> str:
    digest = digest_of(content, algorithm)
    assert api.send("POST", f"/v2/{repository}/blobs/uploads/?digest={digest}", content).status == 201
    return digest


def push_manifest(api: Api, repository: str, algorithm: str) -> tuple[bytes, str]:
    """A manifest under the tag v1; its bytes and digest."""
    body = encoded(api.config(repository))
    digest = digest_of(body, algorithm)
    assert api.put_manifest(repository, f"{digest}?tag=v1", body).status == 201
    return body, digest


@pytest.mark.parametrize(
    ("reference", "get", "put"),
    [
        (".hidden", 404, 400),
        ("-x", 404, 400),
        ("a" * 129, 404, 400),
        ("a+b", 404, 400),
        ("a%20b", 404, 400),
        ("sha256:", 400, 400),
        ("sha256:" + "a" * 63, 400, 400),
        ("sha256:" + "A" * 64, 400, 400),
        ("sha512:" + "a" * 64, 400, 400),
        ("md5:" + "a" * 32, 400, 400),
    ],
)
def test_pulling_manifests_takes_digests_and_tags_only(
    api: Api, repository: str, reference: str, get: int, put: int
) -> None:
    body = encoded(api.config(repository))
    assert api.put_manifest(repository, reference, body).status == put
    assert api.send("GET", manifest_path(repository, reference)).status == get


@pytest.mark.parametrize("tag", ["a", "_", "A.b-c_D", "0", "a" * 128, "_" * 128, "sha256-" + "a" * 64])
def test_pulling_manifests_tags_have_128_characters(api: Api, repository: str, tag: str) -> None:
    body = encoded(api.config(repository))
    assert api.put_manifest(repository, tag, body).status == 201
    assert api.send("GET", manifest_path(repository, tag)).body == body


@pytest.mark.parametrize("name", ["a", "a/b/c/d", "a.b", "a_b", "a__b", "a-b", "a---b", "0/1", "blobs/manifests"])
def test_pulling_manifests_names_of_the_grammar_are_taken(api: Api, repository: str, name: str) -> None:
    full = f"{repository}/{name}"
    body = encoded(api.config(full))
    assert api.put_manifest(full, "v1", body).status == 201
    assert api.send("GET", manifest_path(full, "v1")).body == body


@pytest.mark.parametrize("name", ["A", "a_", "-a", "a..b", "a___b", "a//b", "a/", "a._b", "ä", "a b", "a:b"])
def test_pulling_manifests_other_names_are_refused(api: Api, name: str) -> None:
    path = name.replace("ä", "%C3%A4").replace(" ", "%20")
    for target in (manifest_path(path, "v1"), blob_path(path, sha256(b"x")), f"/v2/{path}/tags/list"):
        reply = api.send("GET", target)
        assert (reply.status, reply.code()) == (400, "NAME_INVALID")


@pytest.mark.parametrize("kind", [OCI_MANIFEST, DOCKER_MANIFEST])
@pytest.mark.parametrize("parameters", ["", "; charset=utf-8", ";a=b; c=d"])
def test_pulling_manifests_gives_the_type_that_was_pushed_without_parameters(
    api: Api, repository: str, kind: str, parameters: str
) -> None:
    body = encoded(api.config(repository) | {"mediaType": kind})
    assert api.put_manifest(repository, "v1", body, kind + parameters).status == 201
    for accept in ("*/*", DOCKER_LIST, "text/plain", kind):
        reply = api.send("GET", manifest_path(repository, "v1"), headers={"Accept": accept})
        assert (reply.status, reply.headers["Content-Type"], reply.body) == (200, kind, body)


@pytest.mark.parametrize("kind", [OCI_INDEX, DOCKER_LIST])
def test_pulling_manifests_gives_the_type_of_a_list_that_was_pushed(api: Api, repository: str, kind: str) -> None:
    api.push_document(repository, index(mediaType=kind), "all")
    assert api.send("GET", manifest_path(repository, "all")).headers["Content-Type"] == kind


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_pulling_manifests_gives_the_manifest_with_200_and_its_digest(
    api: Api, repository: str, algorithm: str
) -> None:
    body, digest = push_manifest(api, repository, algorithm)
    for reference in ("v1", digest):
        reply = api.send("GET", manifest_path(repository, reference))
        assert (reply.status, reply.body, reply.headers["Docker-Content-Digest"]) == (200, body, digest)


def test_pulling_manifests_of_what_is_not_there_is_404(api: Api, repository: str) -> None:
    body, digest = push_manifest(api, repository, "sha256")
    for reference in ("v2", sha256(b"?"), digest_of(body, "sha512")):
        assert api.send("GET", manifest_path(repository, reference)).status == 404
    for reference in ("v1", digest):
        assert api.send("GET", manifest_path(f"{repository}/other", reference)).status == 404


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("content", [CONTENT, b"x", b""], ids=len)
def test_pulling_blobs_gives_the_blob_with_200_and_its_digest(
    api: Api, repository: str, algorithm: str, content: bytes
) -> None:
    digest = push_blob(api, repository, content, algorithm)
    reply = api.send("GET", blob_path(repository, digest))
    assert (reply.status, reply.headers["Docker-Content-Digest"]) == (200, digest)
    assert digest_of(reply.body, algorithm) == digest
    assert reply.headers["Content-Length"] == str(len(content))


def test_pulling_blobs_of_what_is_not_there_is_404(api: Api, repository: str) -> None:
    digest = push_blob(api, repository, CONTENT, "sha256")
    assert api.send("GET", blob_path(repository, sha256(b"?"))).status == 404
    assert api.send("GET", blob_path(f"{repository}/other", digest)).status == 404


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("0-0", 0, 0),
        ("0-99", 0, 99),
        ("65535-65536", 65_535, 65_536),
        ("199999-", 199_999, 199_999),
        ("100000-", 100_000, 199_999),
        ("-1", 199_999, 199_999),
        ("-500000", 0, 199_999),
        ("150000-999999", 150_000, 199_999),
    ],
)
def test_pulling_blobs_by_a_range(api: Api, repository: str, asked: str, first: int, last: int) -> None:
    digest = push_blob(api, repository, CONTENT, "sha256")
    reply = api.send("GET", blob_path(repository, digest), headers={"Range": f"bytes={asked}"})
    assert (reply.status, reply.headers["Content-Range"]) == (206, f"bytes {first}-{last}/200000")
    assert reply.body == CONTENT[first : last + 1]
    assert reply.headers["Docker-Content-Digest"] == digest


def test_pulling_blobs_by_several_ranges(api: Api, repository: str) -> None:
    digest = push_blob(api, repository, CONTENT, "sha256")
    reply = api.send("GET", blob_path(repository, digest), headers={"Range": "bytes=0-9,100000-100009,-10"})
    kind, _, boundary = reply.headers["Content-Type"].partition("; boundary=")
    assert (reply.status, kind) == (206, "multipart/byteranges")
    parts = [part.partition(b"\r\n\r\n") for part in reply.body.split(f"\r\n--{boundary}".encode())[1:-1]]
    assert [body for _, _, body in parts] == [CONTENT[:10], CONTENT[100_000:100_010], CONTENT[-10:]]
    assert [head.rpartition(b"bytes ")[2] for head, _, _ in parts] == [
        b"0-9/200000",
        b"100000-100009/200000",
        b"199990-199999/200000",
    ]


def test_pulling_blobs_by_a_range_beyond_the_end_is_416(api: Api, repository: str) -> None:
    digest = push_blob(api, repository, CONTENT, "sha256")
    for asked in ("200000-", "200000-200001", "-0"):
        reply = api.send("GET", blob_path(repository, digest), headers={"Range": f"bytes={asked}"})
        assert (reply.status, reply.headers["Content-Range"]) == (416, "bytes */200000")


def test_pulling_blobs_takes_no_range_of_another_unit_or_of_another_content(api: Api, repository: str) -> None:
    digest = push_blob(api, repository, CONTENT, "sha256")
    for headers in ({"Range": "pages=1-2"}, {"Range": "bytes=0-1", "If-Range": '"other"'}):
        reply = api.send("GET", blob_path(repository, digest), headers=headers)
        assert (reply.status, reply.body) == (200, CONTENT)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_checking_if_content_exists_in_the_registry_tells_digest_and_size(
    api: Api, repository: str, algorithm: str
) -> None:
    body, digest = push_manifest(api, repository, algorithm)
    blob = push_blob(api, repository, CONTENT, algorithm)
    for path, known, size in (
        (manifest_path(repository, "v1"), digest, len(body)),
        (manifest_path(repository, digest), digest, len(body)),
        (blob_path(repository, blob), blob, len(CONTENT)),
    ):
        reply = api.send("HEAD", path)
        assert (reply.status, reply.body) == (200, b"")
        assert (reply.headers["Docker-Content-Digest"], reply.headers["Content-Length"]) == (known, str(size))


def test_checking_if_content_exists_in_the_registry_is_404_where_it_does_not(api: Api, repository: str) -> None:
    push_manifest(api, repository, "sha256")
    for path in (
        manifest_path(repository, "v2"),
        manifest_path(repository, sha256(b"?")),
        blob_path(repository, sha256(b"?")),
    ):
        reply = api.send("HEAD", path)
        assert (reply.status, reply.body) == (404, b"")
