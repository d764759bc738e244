"""GET, HEAD and DELETE of blobs, and mounts."""

from __future__ import annotations

import email
import email.policy
import os

import pytest

from tests.registry.client import Client
from tests.registry.documents import sha256

CONTENT = os.urandom(300_000)  # five chunks of the test server
SIZE = len(CONTENT)
ABSENT = "sha256:" + "0" * 64


@pytest.fixture
def blob(client: Client, repository: str) -> str:
    """The path of a pushed blob."""
    return f"/v2/{repository}/blobs/{client.push(repository, CONTENT)}"


def test_get_gives_the_bytes_with_all_that_clients_look_at(client: Client, blob: str) -> None:
    reply = client.send("GET", blob)
    assert (reply.status, reply.body) == (200, CONTENT)
    assert reply.headers["Content-Length"] == str(SIZE)
    assert reply.headers["Content-Type"] == "application/octet-stream"
    assert reply.headers["Docker-Content-Digest"] == sha256(CONTENT)
    assert reply.headers["Accept-Ranges"] == "bytes"
    assert reply.headers["ETag"] == f'"{sha256(CONTENT)}"'


def test_head_says_the_same_and_touches_no_chunk(client: Client, blob: str) -> None:
    with client.fault("unreadable"):
        reply = client.send("HEAD", blob)
    assert (reply.status, reply.body) == (200, b"")
    assert reply.headers["Content-Length"] == str(SIZE)
    assert reply.headers["Docker-Content-Digest"] == sha256(CONTENT)
    assert reply.headers["Content-Type"] == "application/octet-stream"


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=500-1499", 500, 1499),
        ("bytes=65535-65536", 65535, 65536),
        ("bytes=200000-", 200_000, SIZE - 1),
        ("bytes=-500", SIZE - 500, SIZE - 1),
        ("bytes=-9999999", 0, SIZE - 1),
        ("bytes=299000-9999999", 299_000, SIZE - 1),
        ("bytes=299000-9999999, 999999-", 299_000, SIZE - 1),
    ],
)
def test_a_range_is_answered_with_206(client: Client, blob: str, asked: str, first: int, last: int) -> None:
    reply = client.send("GET", blob, headers={"Range": asked})
    assert reply.status == 206
    assert reply.body == CONTENT[first : last + 1]
    assert reply.headers["Content-Range"] == f"bytes {first}-{last}/{SIZE}"
    assert reply.headers["Content-Length"] == str(last - first + 1)


@pytest.mark.parametrize("asked", [f"bytes={SIZE}-", "bytes=500-0", "bytes=-0"])
def test_a_range_without_bytes_is_answered_with_416_and_the_size(client: Client, blob: str, asked: str) -> None:
    reply = client.send("GET", blob, headers={"Range": asked})
    assert reply.status == 416
    assert reply.headers["Content-Range"] == f"bytes */{SIZE}"
    assert reply.code() == "SIZE_INVALID"


@pytest.mark.parametrize("asked", ["lines=1-2", "bytes=x-y", "bytes=0-250000,1-250001"])
def test_a_range_of_no_use_is_answered_with_everything(client: Client, blob: str, asked: str) -> None:
    reply = client.send("GET", blob, headers={"Range": asked})
    assert (reply.status, reply.body) == (200, CONTENT)


def test_several_ranges_are_answered_in_parts(client: Client, blob: str) -> None:
    reply = client.send("GET", blob, headers={"Range": "bytes=0-9,70000-140000,-5"})
    assert reply.status == 206
    assert len(reply.body) == int(reply.headers["Content-Length"])
    head = f"Content-Type: {reply.headers['Content-Type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + reply.body, policy=email.policy.HTTP)
    parts = list(message.iter_parts())  # type: ignore[attr-defined]
    assert [part["Content-Range"] for part in parts] == [
        f"bytes 0-9/{SIZE}",
        f"bytes 70000-140000/{SIZE}",
        f"bytes {SIZE - 5}-{SIZE - 1}/{SIZE}",
    ]
    boundary = reply.headers["Content-Type"].partition("boundary=")[2].encode()
    bodies = [
        piece.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for piece in reply.body.split(b"--" + boundary)[1:-1]
    ]
    assert bodies == [CONTENT[:10], CONTENT[70_000:140_001], CONTENT[-5:]]


def test_the_connection_is_of_use_after_every_kind_of_answer(client: Client, blob: str) -> None:
    for asked in ("bytes=0-9,20-29", "bytes=0-9", "bytes=999999-", "bytes=0-"):
        client.send("GET", blob, headers={"Range": asked})
    assert client.send("GET", blob).body == CONTENT


def test_who_has_the_content_is_told_so(client: Client, blob: str) -> None:
    etag = f'"{sha256(CONTENT)}"'
    for given in (etag, f"W/{etag}", "*", f'"x", {etag}'):
        reply = client.send("GET", blob, headers={"If-None-Match": given})
        assert (reply.status, reply.body, reply.headers["ETag"]) == (304, b"", etag), given
    assert client.send("HEAD", blob, headers={"If-None-Match": etag}).status == 304
    assert client.send("GET", blob, headers={"If-None-Match": '"x"'}).status == 200


def test_if_range_with_another_tag_or_a_date_means_everything(client: Client, blob: str) -> None:
    etag = f'"{sha256(CONTENT)}"'
    headers = {"Range": "bytes=0-9"}
    assert client.send("GET", blob, headers=headers | {"If-Range": etag}).status == 206
    for other in ('"x"', f"W/{etag}", "Wed, 21 Oct 2026 07:28:00 GMT"):
        assert client.send("GET", blob, headers=headers | {"If-Range": other}).status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_an_unknown_blob_is_404(client: Client, blob: str, repository: str, method: str) -> None:
    for path in (f"/v2/{repository}/blobs/{ABSENT}", f"/v2/nowhere/blobs/{sha256(CONTENT)}"):
        reply = client.send(method, path)
        assert reply.status == 404
        assert method == "HEAD" or reply.code() == "BLOB_UNKNOWN"


@pytest.mark.parametrize("digest", ["sha256:short", "md5:" + "0" * 32, "latest", "sha256:" + "A" * 64])
def test_a_malformed_digest_is_400(client: Client, repository: str, digest: str) -> None:
    reply = client.send("GET", f"/v2/{repository}/blobs/{digest}")
    assert (reply.status, reply.code()) == (400, "DIGEST_INVALID")


def test_a_deleted_blob_is_gone_at_once(client: Client, blob: str) -> None:
    assert client.send("GET", blob).status == 200
    reply = client.send("DELETE", blob)
    assert (reply.status, reply.body) == (202, b"")
    assert client.send("GET", blob).status == 404
    assert client.send("HEAD", blob).status == 404
    assert client.send("DELETE", blob).status == 404


def test_what_is_not_as_wanted_is_neither_sent_nor_deleted(client: Client, blob: str) -> None:
    for method in ("GET", "HEAD", "DELETE"):
        assert client.send(method, blob, headers={"If-Match": '"x"'}).status == 412
    assert client.send("DELETE", blob, headers={"If-None-Match": "*"}).status == 412
    etag = client.send("HEAD", blob, headers={"If-Match": "*"}).headers["ETag"]
    assert client.send("GET", blob, headers={"If-Match": etag}).status == 200
    assert client.send("DELETE", blob, headers={"If-Match": etag}).status == 202
    assert client.send("DELETE", blob, headers={"If-Match": '"x"'}).status == 404


def test_an_empty_blob_is_a_blob(client: Client, repository: str) -> None:
    path = f"/v2/{repository}/blobs/{client.push(repository, b'')}"
    reply = client.send("GET", path)
    assert (reply.status, reply.body, reply.headers["Content-Length"]) == (200, b"", "0")
    assert client.send("HEAD", path).headers["Content-Length"] == "0"
    assert client.send("GET", path, headers={"Range": "bytes=0-"}).status == 200


def test_what_cannot_be_read_is_503_before_the_first_byte(client: Client, blob: str) -> None:
    with client.fault("unreadable"):
        for headers in ({}, {"Range": "bytes=0-5"}, {"Range": "bytes=0-5,10-15"}):
            reply = client.send("GET", blob, headers=headers)
            assert (reply.status, reply.code()) == (503, "UNAVAILABLE")
            assert int(reply.headers["Retry-After"]) > 0
            assert "fid" not in reply.body.decode()
    assert client.send("GET", blob).body == CONTENT


class TestMount:
    def test_a_mounted_blob_is_there_without_an_upload(self, client: Client, blob: str, repository: str) -> None:
        digest = sha256(CONTENT)
        reply = client.send("POST", f"/v2/{repository}/other/blobs/uploads/?mount={digest}&from={repository}", b"")
        assert (reply.status, reply.body) == (201, b"")
        assert reply.location == f"/v2/{repository}/other/blobs/{digest}"
        assert reply.headers["Docker-Content-Digest"] == digest
        assert client.send("GET", reply.location).body == CONTENT

    def test_a_mount_without_source_finds_the_blob(self, client: Client, blob: str, repository: str) -> None:
        reply = client.send("POST", f"/v2/{repository}/other/blobs/uploads/?mount={sha256(CONTENT)}", b"")
        assert reply.status == 201

    def test_the_blob_lives_on_where_it_was_mounted(self, client: Client, blob: str, repository: str) -> None:
        reply = client.send("POST", f"/v2/{repository}/x/blobs/uploads/?mount={sha256(CONTENT)}&from={repository}", b"")
        assert client.send("DELETE", blob).status == 202
        assert client.send("GET", blob).status == 404
        assert client.send("GET", reply.location).body == CONTENT

    @pytest.mark.parametrize(
        "query",
        [
            f"mount={ABSENT}&from=nowhere",
            f"mount={ABSENT}",
            "mount=garbage&from=nowhere",
            f"mount={ABSENT}&from=UPPER/../CASE",
            f"mount={ABSENT}&from=",
            "mount=",
        ],
    )
    def test_a_mount_that_cannot_be_opens_an_upload(self, client: Client, repository: str, query: str) -> None:
        reply = client.send("POST", f"/v2/{repository}/blobs/uploads/?{query}", b"")
        assert (reply.status, reply.headers["Range"]) == (202, "0-0")
        done = client.send("PUT", f"{reply.location}?digest={sha256(b'x')}", b"x")
        assert done.status == 201
