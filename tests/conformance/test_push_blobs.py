"""Pushing blobs, in every form: what the specification says of sessions, pieces and mounts, named by heading."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import pytest

from tests.conformance.api import ALGORITHMS, Api, blob_path, digest_of, uploads_path
from tests.registry.client import Reply
from tests.registry.documents import sha256

CONTENT = os.urandom(200_000)  # several chunks
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
OCTETS = {"Content-Type": "application/octet-stream"}


def in_one_post(api: Api, repository: str, content: bytes, digest: str) -> Reply:
    return api.send("POST", uploads_path(repository, f"?digest={digest}"), content, OCTETS)


def in_post_and_put(api: Api, repository: str, content: bytes, digest: str) -> Reply:
    return api.close_upload(api.open_upload(repository), digest, content)


def in_pieces(api: Api, repository: str, content: bytes, digest: str) -> Reply:
    algorithm = digest.partition(":")[0]
    location = api.open_upload(repository, "" if algorithm == "sha256" else f"?digest-algorithm={algorithm}")
    middle = len(content) // 2
    for first, piece in ((0, content[:middle]), (middle, content[middle:])):
        location = api.patch(location, piece, first).location
    return api.close_upload(location, digest)


def in_a_stream(api: Api, repository: str, content: bytes, digest: str) -> Reply:
    algorithm = digest.partition(":")[0]
    location = api.open_upload(repository, "" if algorithm == "sha256" else f"?digest-algorithm={algorithm}")
    api.send("PATCH", location, iter([content[:1], content[1:]]))
    return api.close_upload(location, digest)


FORMS: list[Callable[[Api, str, bytes, str], Reply]] = [in_one_post, in_post_and_put, in_pieces, in_a_stream]
forms = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)


@forms
def test_pushing_blobs_with_content_of_another_digest_is_400(
    api: Api, repository: str, form: Callable[[Api, str, bytes, str], Reply]
) -> None:
    for algorithm in ALGORITHMS:
        reply = form(api, repository, CONTENT, digest_of(b"?", algorithm))
        assert (reply.status, reply.code()) == (400, "DIGEST_INVALID")
        assert not api.blob_is(repository, CONTENT, algorithm)


@pytest.mark.parametrize("digest", ["", "x", "sha256:", "sha256:zz", "sha256:" + "A" * 64, "md5:" + "0" * 32])
def test_pushing_blobs_under_no_digest_or_an_unsupported_one_is_400(api: Api, repository: str, digest: str) -> None:
    location = api.open_upload(repository)
    for reply in (in_one_post(api, repository, CONTENT, digest), api.close_upload(location, digest, CONTENT)):
        assert (reply.status, reply.code()) == (400, "DIGEST_INVALID")
    assert api.send("POST", uploads_path(repository, "?digest-algorithm=md5"), b"").status == 400
    assert api.close_upload(location, sha256(CONTENT), CONTENT).status == 201


def test_post_then_put_opens_a_session_with_202_and_a_location(api: Api, repository: str) -> None:
    for path in (uploads_path(repository), uploads_path(repository).rstrip("/")):
        reply = api.send("POST", path, b"")
        assert (reply.status, reply.body) == (202, b"")
        assert UUID.fullmatch(reply.location.rpartition("/")[2])
        assert reply.location.startswith(f"/v2/{repository}/blobs/uploads/")
    assert reply.location != api.open_upload(repository)


def test_post_then_put_location_keeps_further_parameters_apart(api: Api, repository: str) -> None:
    location = api.open_upload(repository, "?ns=example.org&state=a%3Db")
    assert api.close_upload(f"{location}?state=a%3Db", sha256(CONTENT), CONTENT).status == 201


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("content", [CONTENT, b"x", b""], ids=len)
def test_post_then_put_ends_with_201_and_a_location_to_pull_from(
    api: Api, repository: str, algorithm: str, content: bytes
) -> None:
    reply = in_post_and_put(api, repository, content, digest_of(content, algorithm))
    assert reply.status == 201
    assert api.send("GET", reply.location).body == content


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("content", [CONTENT, b"x", b""], ids=len)
def test_single_post_ends_with_201_and_a_location_to_pull_from(
    api: Api, repository: str, algorithm: str, content: bytes
) -> None:
    reply = in_one_post(api, repository, content, digest_of(content, algorithm))
    assert (reply.status, reply.headers["Docker-Content-Digest"]) == (201, digest_of(content, algorithm))
    assert api.send("GET", reply.location).body == content


def test_single_post_without_its_body_opens_a_session(api: Api, repository: str) -> None:
    location = api.open_upload(repository, f"?digest={digest_of(CONTENT, 'sha512')}")
    assert api.close_upload(location, digest_of(CONTENT, "sha512"), CONTENT).status == 201


def test_single_post_of_another_length_makes_no_blob(api: Api, repository: str) -> None:
    digest = sha256(CONTENT)
    with api.socket() as sock:
        head = f"POST {uploads_path(repository)}?digest={digest} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        sock.sendall(f"{head}Content-Length: {len(CONTENT) + 1}\r\n\r\n".encode() + CONTENT)
        sock.shutdown(1)
        assert sock.makefile("rb").readline().startswith(b"HTTP/1.1 400 ")
    assert not api.blob_is(repository, CONTENT)


def test_pushing_a_blob_in_chunks_by_another_algorithm_that_the_post_names(api: Api, repository: str) -> None:
    location = api.open_upload(repository, "?digest-algorithm=sha512")
    location = api.patch(location, CONTENT[:100_000], 0).location
    location = api.patch(location, CONTENT[100_000:], 100_000).location
    assert api.close_upload(location, digest_of(CONTENT, "sha512")).status == 201
    assert api.blob_is(repository, CONTENT, "sha512")


def test_pushing_a_blob_in_chunks_tells_the_least_length_and_takes_smaller_ones(api: Api, repository: str) -> None:
    reply = api.send("POST", uploads_path(repository), b"")
    assert int(reply.headers["OCI-Chunk-Min-Length"]) > 3
    location = reply.location
    for first in range(3):
        location = api.patch(location, CONTENT[first : first + 1], first).location
    assert api.close_upload(location, sha256(CONTENT[:3])).status == 201


def test_pushing_a_blob_in_chunks_counts_both_ends_of_a_range(api: Api, repository: str) -> None:
    location = api.open_upload(repository)
    for wrong in ("0-10", "0-8"):
        reply = api.send("PATCH", location, CONTENT[:10], {"Content-Range": wrong})
        assert (reply.status, reply.code()) == (400, "SIZE_INVALID")
    assert api.send("PATCH", location, CONTENT[:10], {"Content-Range": "0-9"}).headers["Range"] == "0-9"


@pytest.mark.parametrize("wrong", ["x", "0", "0-", "-9", "9-0", "a-b", "0-9-10", "bytes", ""])
def test_pushing_a_blob_in_chunks_refuses_ranges_of_another_form(api: Api, repository: str, wrong: str) -> None:
    location = api.open_upload(repository)
    reply = api.send("PATCH", location, CONTENT[:10], {"Content-Range": wrong})
    assert (reply.status, reply.code()) == (400, "BLOB_UPLOAD_INVALID")
    assert api.send("GET", location).headers["Range"] == "0-0"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_pushing_a_blob_in_chunks_answers_each_with_202_and_where_it_ends(
    api: Api, repository: str, algorithm: str
) -> None:
    location = api.open_upload(repository, f"?digest-algorithm={algorithm}")
    for first in range(0, len(CONTENT), 70_000):  # the last one is shorter
        piece = CONTENT[first : first + 70_000]
        reply = api.patch(location, piece, first)
        assert (reply.status, reply.headers["Range"]) == (202, f"0-{first + len(piece) - 1}")
        location = reply.location
    assert api.close_upload(location, digest_of(CONTENT, algorithm)).status == 201
    assert api.blob_is(repository, CONTENT, algorithm)


@pytest.mark.parametrize("first", [0, 99_999, 100_001, 150_000, 2**62])
def test_pushing_a_blob_in_chunks_out_of_order_is_416(api: Api, repository: str, first: int) -> None:
    location = api.patch(api.open_upload(repository), CONTENT[:100_000], 0).location
    refused = api.patch(location, CONTENT[:50_000], first)
    assert refused.status == 416
    status = api.send("GET", location)
    assert (status.headers["Range"], status.location) == (refused.headers["Range"], refused.location)
    assert status.headers["Range"] == "0-99999"
    assert api.patch(refused.location, CONTENT[100_000:], 100_000).status == 202
    assert api.close_upload(location, sha256(CONTENT)).status == 201


def test_pushing_a_blob_in_chunks_begins_at_0(api: Api, repository: str) -> None:
    location = api.open_upload(repository)
    assert api.patch(location, CONTENT[:10], 1).status == 416
    assert api.patch(location, CONTENT[:10], 0).status == 202


def test_pushing_a_blob_in_chunks_ends_with_a_patch_or_with_the_put(api: Api, repository: str) -> None:
    for last_with_put in (True, False):
        content = os.urandom(1000)
        location = api.patch(api.open_upload(repository), content[:600], 0).location
        if last_with_put:
            done = api.close_upload(location, sha256(content), content[600:], Content_Range="600-999")
        else:
            location = api.patch(location, content[600:], 600).location
            done = api.close_upload(location, sha256(content))
        assert done.status == 201
        assert api.send("GET", done.location).body == content


def test_pushing_a_blob_in_chunks_makes_no_blob_before_the_put(api: Api, repository: str) -> None:
    location = api.patch(api.open_upload(repository), CONTENT, 0).location
    assert not api.blob_is(repository, CONTENT)
    assert api.close_upload(location, sha256(CONTENT)).status == 201
    assert api.blob_is(repository, CONTENT)


def test_pushing_a_blob_in_chunks_is_not_closed_without_the_digest(api: Api, repository: str) -> None:
    location = api.patch(api.open_upload(repository), CONTENT, 0).location
    reply = api.send("PUT", location, b"")
    assert (reply.status, reply.code()) == (400, "DIGEST_INVALID")
    assert api.send("PUT", f"{location}?digest={sha256(CONTENT)}", b"").status == 201


def test_pushing_a_blob_in_chunks_closed_out_of_order_is_416(api: Api, repository: str) -> None:
    location = api.patch(api.open_upload(repository), CONTENT[:100_000], 0).location
    for first in (0, 99_999, 100_001):
        wrong = f"{first}-{first + 99_999}"
        reply = api.close_upload(location, sha256(CONTENT), CONTENT[100_000:], Content_Range=wrong)
        assert (reply.status, reply.headers["Range"], reply.location) == (416, "0-99999", location)
    done = api.close_upload(location, sha256(CONTENT), CONTENT[100_000:], Content_Range="100000-199999")
    assert done.status == 201


def test_pushing_a_blob_in_chunks_tells_how_far_it_is(api: Api, repository: str) -> None:
    location = api.open_upload(repository)
    for last in (99_999, 199_999):
        location = api.patch(location, CONTENT[:100_000], last - 99_999).location
        reply = api.send("GET", location)
        assert (reply.status, reply.body, reply.headers["Range"]) == (204, b"", f"0-{last}")
        assert reply.location == location


def test_cancel_a_blob_upload_is_204_and_ends_it(api: Api, repository: str) -> None:
    location = api.patch(api.open_upload(repository), CONTENT, 0).location
    reply = api.send("DELETE", location)
    assert (reply.status, reply.body) == (204, b"")
    assert api.statuses("GET", location) == {404}
    assert api.patch(location, CONTENT, len(CONTENT)).status == 404
    assert api.close_upload(location, sha256(CONTENT)).code() == "BLOB_UPLOAD_UNKNOWN"
    assert api.send("DELETE", location).status == 404


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_mounting_a_blob_from_another_repository_is_201_with_its_location_and_digest(
    api: Api, repository: str, algorithm: str
) -> None:
    digest = digest_of(CONTENT, algorithm)
    in_one_post(api, repository, CONTENT, digest)
    reply = api.send("POST", uploads_path(f"{repository}/b", f"?mount={digest}&from={repository}"), b"")
    assert (reply.status, reply.headers["Docker-Content-Digest"]) == (201, digest)
    assert reply.location == blob_path(f"{repository}/b", digest)
    assert api.send("GET", reply.location).body == CONTENT


def test_mounting_a_blob_from_another_repository_finds_it_without_from(api: Api, repository: str) -> None:
    content = os.urandom(1000)
    digest = api.push(repository, content)
    assert api.send("POST", uploads_path(f"{repository}/b", f"?mount={digest}"), b"").status == 201
    assert api.blob_is(f"{repository}/b", content)


@pytest.mark.parametrize("source", ["", "&from={here}/absent", "&from=", "&from=BAD", "&from={here}"])
def test_mounting_a_blob_from_another_repository_that_has_it_not_opens_a_session(
    api: Api, repository: str, source: str
) -> None:
    content = os.urandom(1000)
    query = f"?mount={sha256(content)}{source.format(here=repository)}"
    reply = api.send("POST", uploads_path(repository, query), b"")
    assert reply.status == 202
    assert api.close_upload(reply.location, sha256(content), content).status == 201


def test_mounting_a_blob_from_another_repository_after_it_was_deleted(api: Api, repository: str) -> None:
    content = os.urandom(1000)
    digest = api.push(repository, content)
    mount = uploads_path(f"{repository}/b", f"?mount={digest}&from={repository}")
    assert api.send("POST", mount, b"").status == 201
    assert api.send("DELETE", blob_path(f"{repository}/b", digest)).status == 202
    assert api.statuses("GET", blob_path(f"{repository}/b", digest)) == {404}
    assert api.send("POST", mount, b"").status == 201  # from the one that still has it
    assert api.send("DELETE", blob_path(repository, digest)).status == 202
    assert api.blob_is(f"{repository}/b", content)
    assert api.send("POST", uploads_path(f"{repository}/c", f"?mount={digest}&from={repository}"), b"").status == 202
