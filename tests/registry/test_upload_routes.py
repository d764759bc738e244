"""Every form of push, in the forms of real clients, and everything that may go wrong in one."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import uuid
from collections.abc import Iterator

import pytest

from tests.registry.client import Client, read_reply
from tests.registry.documents import sha256
from tests.wire.serving import wait_until

CONTENT = os.urandom(300_000)
DIGEST = sha256(CONTENT)
WRONG = sha256(b"something else")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def sha512(content: bytes) -> str:
    return "sha512:" + hashlib.sha512(content).hexdigest()


def pieces(content: bytes, size: int = 32 * 1024) -> Iterator[bytes]:
    for at in range(0, len(content), size):
        yield content[at : at + size]


def status_of(client: Client, location: str) -> str:
    reply = client.send("GET", location)
    assert (reply.status, reply.body) == (204, b"")
    assert reply.location.endswith(reply.headers["Docker-Upload-UUID"])
    return str(reply.headers["Range"])


def test_post_opens_a_session(client: Client, repository: str) -> None:
    for path in ("uploads/", "uploads"):
        reply = client.send("POST", f"/v2/{repository}/blobs/{path}", b"")
        assert (reply.status, reply.body) == (202, b"")
        assert (reply.headers["Range"], reply.headers["Content-Length"]) == ("0-0", "0")
        assert UUID.fullmatch(reply.headers["Docker-Upload-UUID"])
        assert reply.location == f"/v2/{repository}/blobs/uploads/{reply.headers['Docker-Upload-UUID']}"
        assert int(reply.headers["OCI-Chunk-Min-Length"]) > 0
        assert status_of(client, reply.location) == "0-0"


def test_post_takes_a_body_that_means_nothing(client: Client, repository: str) -> None:
    reply = client.send("POST", f"/v2/{repository}/blobs/uploads/", b"{}", {"Content-Type": "application/json"})
    assert reply.status == 202
    assert status_of(client, reply.location) == "0-0"


def test_docker_pushes_a_layer_in_one_chunked_patch_and_an_empty_put(client: Client, repository: str) -> None:
    location = client.open_upload(repository)
    patched = client.send("PATCH", location, pieces(CONTENT))
    assert (patched.status, patched.headers["Range"]) == (202, f"0-{len(CONTENT) - 1}")
    assert patched.location == location
    done = client.send("PUT", f"{location}?digest={DIGEST}", b"")
    assert (done.status, done.body) == (201, b"")
    assert done.location == f"/v2/{repository}/blobs/{DIGEST}"
    assert done.headers["Docker-Content-Digest"] == DIGEST
    head = client.send("HEAD", done.location)
    assert (head.status, head.headers["Content-Length"]) == (200, str(len(CONTENT)))
    assert client.send("GET", done.location).body == CONTENT


def test_containerd_pushes_a_layer_in_one_put(client: Client, repository: str) -> None:
    location = client.open_upload(repository)
    done = client.send("PUT", f"{location}?digest={DIGEST}", CONTENT, {"Content-Type": "application/octet-stream"})
    assert done.status == 201
    assert client.send("GET", done.location).body == CONTENT


def test_a_put_may_be_chunked_too(client: Client, repository: str) -> None:
    done = client.send("PUT", f"{client.open_upload(repository)}?digest={DIGEST}", pieces(CONTENT))
    assert done.status == 201
    assert client.send("GET", done.location).body == CONTENT


@pytest.mark.parametrize("form", ["{}-{}", "bytes {}-{}/*", "bytes={}-{}"])
def test_a_blob_may_come_in_many_patches(client: Client, repository: str, form: str) -> None:
    location = client.open_upload(repository)
    at = 0
    for piece in pieces(CONTENT, 70_001):
        last = at + len(piece) - 1
        reply = client.send("PATCH", location, piece, {"Content-Range": form.format(at, last)})
        assert (reply.status, reply.headers["Range"]) == (202, f"0-{last}")
        location, at = reply.location, last + 1
        assert status_of(client, location) == f"0-{last}"
    assert client.send("PUT", f"{location}?digest={DIGEST}", b"").status == 201
    assert client.send("GET", f"/v2/{repository}/blobs/{DIGEST}").body == CONTENT


def test_the_last_piece_may_come_with_the_put(client: Client, repository: str) -> None:
    location = client.open_upload(repository)
    client.send("PATCH", location, CONTENT[:100_000])
    headers = {"Content-Range": f"100000-{len(CONTENT) - 1}"}
    assert client.send("PUT", f"{location}?digest={DIGEST}", CONTENT[100_000:], headers).status == 201
    assert client.send("GET", f"/v2/{repository}/blobs/{DIGEST}").body == CONTENT


def test_a_blob_may_come_with_the_post(client: Client, repository: str) -> None:
    for body in (CONTENT, pieces(CONTENT)):
        reply = client.send("POST", f"/v2/{repository}/blobs/uploads/?digest={DIGEST}", body)
        assert (reply.status, reply.location) == (201, f"/v2/{repository}/blobs/{DIGEST}")
        assert reply.headers["Docker-Content-Digest"] == DIGEST
    assert client.send("GET", reply.location).body == CONTENT


def test_a_post_with_digest_and_no_body_opens_a_session(client: Client, repository: str) -> None:
    reply = client.send("POST", f"/v2/{repository}/blobs/uploads/?digest={sha512(CONTENT)}", b"")
    assert reply.status == 202
    client.send("PATCH", reply.location, CONTENT)
    assert client.send("PUT", f"{reply.location}?digest={sha512(CONTENT)}", b"").status == 201


def test_the_closing_put_reads_no_blob_bytes(client: Client, repository: str) -> None:
    location = client.open_upload(repository)
    client.send("PATCH", location, CONTENT)
    reads = client.told("reads")
    assert client.send("PUT", f"{location}?digest={DIGEST}", b"").status == 201
    assert client.told("reads") == reads


def test_the_closing_put_may_be_asked_again(client: Client, repository: str) -> None:
    location = client.open_upload(repository)
    client.send("PATCH", location, CONTENT)
    for _ in range(2):
        assert client.send("PUT", f"{location}?digest={DIGEST}", b"").status == 201
    assert client.send("PUT", f"{location}?digest={WRONG}", b"").code() == "BLOB_UPLOAD_UNKNOWN"


def test_a_further_query_of_the_location_is_kept_out_of_the_way(client: Client, repository: str) -> None:
    location = client.open_upload(repository, "?ns=docker.io&unknown=1")
    assert client.send("PUT", f"{location}?unknown=1&digest={DIGEST}&ns=docker.io", CONTENT).status == 201


class TestSha512:
    def test_announced_when_the_session_is_opened(self, client: Client, repository: str) -> None:
        location = client.open_upload(repository, "?digest-algorithm=sha512")
        client.send("PATCH", location, CONTENT)
        reads = client.told("reads")
        reply = client.send("PUT", f"{location}?digest={sha512(CONTENT)}", b"")
        assert reply.status == 201
        assert client.told("reads") == reads
        assert client.send("GET", reply.location).body == CONTENT

    def test_announced_with_the_post_and_the_body(self, client: Client, repository: str) -> None:
        reply = client.send("POST", f"/v2/{repository}/blobs/uploads/?digest={sha512(CONTENT)}", CONTENT)
        assert (reply.status, reply.headers["Docker-Content-Digest"]) == (201, sha512(CONTENT))

    def test_announced_with_the_put_and_the_body(self, client: Client, repository: str) -> None:
        location = client.open_upload(repository)
        assert client.send("PUT", f"{location}?digest={sha512(CONTENT)}", CONTENT).status == 201

    def test_announced_at_the_end_is_read_again(self, client: Client, repository: str) -> None:
        location = client.open_upload(repository)
        client.send("PATCH", location, CONTENT[:200_000])
        reply = client.send("PUT", f"{location}?digest={sha512(CONTENT)}", CONTENT[200_000:])
        assert reply.status == 201
        assert client.send("GET", reply.location).body == CONTENT

    def test_announced_wrongly_is_refused(self, client: Client, repository: str) -> None:
        reply = client.send("POST", f"/v2/{repository}/blobs/uploads/?digest-algorithm=md5", b"")
        assert (reply.status, reply.code()) == (400, "DIGEST_INVALID")


class TestWrongDigest:
    def check(self, client: Client, repository: str, digest: str) -> None:
        for name in (digest, WRONG):
            assert client.send("HEAD", f"/v2/{repository}/blobs/{name}").status == 404

    @pytest.mark.parametrize("size", [10, len(CONTENT)])
    def test_in_every_form_of_push(self, client: Client, repository: str, size: int) -> None:
        content = CONTENT[:size]
        forms = {
            "POST": lambda: client.send("POST", f"/v2/{repository}/blobs/uploads/?digest={WRONG}", content),
            "PUT": lambda: client.send("PUT", f"{client.open_upload(repository)}?digest={WRONG}", content),
            "chunked PUT": lambda: client.send(
                "PUT", f"{client.open_upload(repository)}?digest={WRONG}", pieces(content)
            ),
            "PATCH and PUT": lambda: self.patch_and_put(client, repository, content),
        }
        for form, push in forms.items():
            reply = push()
            assert (reply.status, reply.code()) == (400, "DIGEST_INVALID"), form
            self.check(client, repository, sha256(content))

    def patch_and_put(self, client: Client, repository: str, content: bytes):  # type: ignore[no-untyped-def]
        location = client.open_upload(repository)
        client.send("PATCH", location, content)
        return client.send("PUT", f"{location}?digest={WRONG}", b"")

    def test_ends_the_session(self, client: Client, repository: str) -> None:
        location = client.open_upload(repository)
        client.send("PATCH", location, CONTENT)
        client.send("PUT", f"{location}?digest={WRONG}", b"")
        assert client.send("GET", location).code() == "BLOB_UPLOAD_UNKNOWN"

    def test_leaves_no_chunk_of_a_push_in_one_request(self, client: Client, repository: str) -> None:
        before = client.told("chunks")
        client.send("POST", f"/v2/{repository}/blobs/uploads/?digest={WRONG}", CONTENT)
        assert client.told("chunks") == before

    @pytest.mark.parametrize("query", ["", "?digest=", "?digest=sha256:x", "?digest=md5:" + "0" * 32])
    def test_malformed_or_missing_leaves_the_session(self, client: Client, repository: str, query: str) -> None:
        location = client.open_upload(repository)
        client.send("PATCH", location, CONTENT)
        reply = client.send("PUT", f"{location}{query}", b"")
        assert (reply.status, reply.code()) == (400, "DIGEST_INVALID")
        assert client.send("PUT", f"{location}?digest={DIGEST}", b"").status == 201


class TestOutOfOrder:
    @pytest.mark.parametrize("method", ["PATCH", "PUT"])
    @pytest.mark.parametrize("start", [0, 999, 1001])
    def test_the_wrong_start_is_416_and_says_the_right_one(
        self, client: Client, repository: str, method: str, start: int
    ) -> None:
        location = client.open_upload(repository)
        client.send("PATCH", location, CONTENT[:1000])
        headers = {"Content-Range": f"{start}-{start + 9}"}
        reply = client.send(method, f"{location}?digest={DIGEST}", b"0123456789", headers)
        assert (reply.status, reply.code()) == (416, "BLOB_UPLOAD_INVALID")
        assert (reply.location, reply.headers["Range"]) == (location, "0-999")
        assert client.send("PUT", f"{location}?digest={DIGEST}", CONTENT[1000:]).status == 201

    def test_two_clients_in_one_session_cannot_mix_their_bytes(self, client: Client, repository: str) -> None:
        location = client.open_upload(repository)
        with client.socket() as slow:
            head = f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\nExpect: 100-continue\r\n\r\n"
            slow.sendall(head.encode())
            assert slow.recv(100).startswith(b"HTTP/1.1 100 ")  # it is being served, from where the session stood then
            slow.sendall(b"0123456789")
            wait_until(lambda: client.send("PATCH", location, b"abc").status == 202, 5.0, "the other client's turn")
            slow.sendall(b"0123456789")
            reply = read_reply(slow)
        assert (reply.status, reply.code()) == (416, "BLOB_UPLOAD_INVALID")
        assert (reply.location, reply.headers["Range"]) == (location, "0-2")
        assert client.send("PUT", f"{location}?digest={sha256(b'abc')}", b"").status == 201


class TestSizes:
    def test_content_range_and_content_length_must_agree(self, client: Client, repository: str) -> None:
        location = client.open_upload(repository)
        reply = client.send("PATCH", location, CONTENT[:200_000], {"Content-Range": "0-299999"})
        assert (reply.status, reply.code()) == (400, "SIZE_INVALID")
        assert status_of(client, location) == "0-0"  # refused before anything was stored

    @pytest.mark.parametrize("body", [b"12345", b"0123456789a"])
    def test_a_chunked_body_must_have_what_it_announces(self, client: Client, repository: str, body: bytes) -> None:
        reply = client.send("PATCH", client.open_upload(repository), iter([body]), {"Content-Range": "0-9"})
        assert (reply.status, reply.code()) == (400, "SIZE_INVALID")

    @pytest.mark.parametrize("value", ["x", "5-1", "0-", "bytes 0-*/9", "0-1,2-3"])
    def test_a_malformed_content_range_is_400(self, client: Client, repository: str, value: str) -> None:
        reply = client.send("PATCH", client.open_upload(repository), b"12345", {"Content-Range": value})
        assert (reply.status, reply.code()) == (400, "BLOB_UPLOAD_INVALID")

    def test_an_empty_patch_changes_nothing(self, client: Client, repository: str) -> None:
        location = client.open_upload(repository)
        for body in (b"", iter([])):
            reply = client.send("PATCH", location, body)
            assert (reply.status, reply.headers["Range"]) == (202, "0-0")
        client.send("PATCH", location, b"x" * 10)
        assert client.send("PATCH", location, b"").headers["Range"] == "0-9"


class TestSessions:
    def test_a_cancelled_session_is_unknown(self, client: Client, repository: str) -> None:
        location = client.open_upload(repository)
        client.send("PATCH", location, CONTENT)
        reply = client.send("DELETE", location)
        assert (reply.status, reply.body) == (204, b"")
        for method, body in (("GET", None), ("DELETE", None), ("PATCH", b"x"), ("PUT", b"x")):
            reply = client.send(method, f"{location}?digest={sha256(b'x')}", body)
            assert (reply.status, reply.code()) == (404, "BLOB_UPLOAD_UNKNOWN"), method

    @pytest.mark.parametrize("upload_id", [str(uuid.UUID(int=1, version=4)), "x", "..", "%00", "%ff", "a" * 300])
    def test_an_unknown_session_is_404(self, client: Client, repository: str, upload_id: str) -> None:
        reply = client.send("PATCH", f"/v2/{repository}/blobs/uploads/{upload_id}", b"x")
        assert (reply.status, reply.code()) == (404, "BLOB_UPLOAD_UNKNOWN")

    def test_a_session_belongs_to_its_repository(self, client: Client, repository: str) -> None:
        location = client.open_upload(repository).replace(repository, repository + "/other")
        assert client.send("PATCH", location, b"x").code() == "BLOB_UPLOAD_UNKNOWN"


class TestCutBodies:
    def cut(self, client: Client, head: str, sent: bytes) -> None:
        """Send a request whose body ends early."""
        with client.socket() as sock:
            sock.sendall(head.encode() + b"\r\n" + sent)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):
                pass

    @pytest.mark.parametrize(
        ("headers", "frame"),
        [("Content-Length: 900000\r\n", b""), ("Transfer-Encoding: chunked\r\n", b"100000\r\n")],
    )
    def test_a_cut_patch_keeps_its_durable_prefix_and_can_be_continued(
        self, client: Client, repository: str, headers: str, frame: bytes
    ) -> None:
        location = client.open_upload(repository)
        self.cut(client, f"PATCH {location} HTTP/1.1\r\nHost: x\r\n{headers}", frame + CONTENT[:200_000])
        kept = int(status_of(client, location).removeprefix("0-")) + 1
        assert 128 * 1024 <= kept <= 200_000
        done = {"Content-Range": f"{kept}-{len(CONTENT) - 1}"}
        assert client.send("PATCH", location, CONTENT[kept:], done).status == 202
        assert client.send("PUT", f"{location}?digest={DIGEST}", b"").status == 201
        assert client.send("GET", f"/v2/{repository}/blobs/{DIGEST}").body == CONTENT

    def test_a_cut_put_makes_no_name_and_can_be_continued(self, client: Client, repository: str) -> None:
        location = client.open_upload(repository)
        head = f"PUT {location}?digest={DIGEST} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(CONTENT)}\r\n"
        self.cut(client, head, CONTENT[:200_000])
        assert client.send("HEAD", f"/v2/{repository}/blobs/{DIGEST}").status == 404
        kept = int(status_of(client, location).removeprefix("0-")) + 1
        assert client.send("PUT", f"{location}?digest={DIGEST}", CONTENT[kept:]).status == 201

    def test_a_cut_post_makes_no_name_even_of_what_has_come(self, client: Client, repository: str) -> None:
        came = CONTENT[:1000]
        target = f"/v2/{repository}/blobs/uploads/?digest={sha256(came)}"
        self.cut(client, f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 2000\r\n", came)
        assert client.send("HEAD", f"/v2/{repository}/blobs/{sha256(came)}").status == 404

    def test_a_malformed_chunk_is_400_and_keeps_the_session(self, client: Client, repository: str) -> None:
        location = client.open_upload(repository)
        with client.socket() as sock:
            head = f"PATCH {location} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            sock.sendall(head.encode() + b"5\r\nhello\r\nzz\r\n")
            reply = read_reply(sock)
        assert reply.status == 400
        assert client.send("GET", location).status == 204


class TestFullStore:
    def test_the_post_that_opens_an_upload_says_so(self, client: Client, repository: str) -> None:
        with client.fault("full"):
            # the state of the store is asked for once a second
            wait_until(lambda: self.post(client, repository) == 507, 5.0, "the refusal")
            reply = client.send("POST", f"/v2/{repository}/blobs/uploads/?digest={DIGEST}", CONTENT)
            assert (reply.status, reply.code()) == (507, "STORAGE_FULL")
        wait_until(lambda: self.post(client, repository) == 202, 5.0, "room")

    def post(self, client: Client, repository: str) -> int:
        return client.send("POST", f"/v2/{repository}/blobs/uploads/", b"").status

    def test_in_the_middle_of_a_body_the_client_hears_it_and_may_go_on(self, client: Client, repository: str) -> None:
        location = client.open_upload(repository)
        content = os.urandom(20_000_000)
        with client.fault("full-after", str(client.told("chunks") + 2)):
            reply = client.send("PATCH", location, pieces(content))
            assert (reply.status, reply.code()) == (507, "STORAGE_FULL")
        kept = int(status_of(client, location).removeprefix("0-")) + 1
        assert kept <= 2 * 64 * 1024
        assert (
            client.send("PUT", f"{location}?digest={sha256(content)}", content[kept if kept > 1 else 0 :]).status == 201
        )
