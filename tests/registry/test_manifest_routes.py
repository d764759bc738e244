"""Manifests over HTTP: what is taken comes back byte for byte, and what is refused changes nothing."""

from __future__ import annotations

import hashlib
import os
import socket

import pytest

from registry_driver.manifest_document import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from tests.registry.client import Client
from tests.registry.documents import LAYER_TYPE, descriptor, encoded, image, index, sha256

FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


def path_of(repository: str, reference: str) -> str:
    return f"/v2/{repository}/manifests/{reference}"


def test_an_image_comes_back_by_tag_and_digest_as_it_was_pushed(client: Client, repository: str) -> None:
    config, layer = os.urandom(16), os.urandom(16)
    client.push(repository, config)
    client.push(repository, layer)
    body = encoded(image(config, layer)).replace(b", ", b" ,\n\t ")  # no re-serialising would give this
    reply = client.put_manifest(repository, "v1", body, OCI_MANIFEST + "; charset=utf-8")
    assert (reply.status, reply.body) == (201, b"")
    assert reply.location == path_of(repository, sha256(body))
    assert reply.headers["Docker-Content-Digest"] == sha256(body)
    assert reply.headers["OCI-Subject"] is None
    for reference in ("v1", sha256(body)):
        got = client.send("GET", path_of(repository, reference), headers={"Accept": DOCKER_LIST})
        assert (got.status, got.body) == (200, body)
        head = client.send("HEAD", path_of(repository, reference))
        assert (head.status, head.body) == (200, b"")
        for headers in (got.headers, head.headers):
            assert headers["Content-Type"] == OCI_MANIFEST
            assert headers["Content-Length"] == str(len(body))
            assert headers["Docker-Content-Digest"] == sha256(body)
            assert headers["ETag"] == f'"{sha256(body)}"'
            assert headers["Content-Encoding"] is None


def test_who_has_the_manifest_is_told_so(client: Client, repository: str) -> None:
    _, digest = client.push_image(repository, "v1")
    reply = client.send("GET", path_of(repository, "v1"), headers={"If-None-Match": f'"{digest}"'})
    assert (reply.status, reply.body) == (304, b"")


@pytest.mark.parametrize("media_type", [OCI_MANIFEST, DOCKER_MANIFEST])
def test_both_image_types(client: Client, repository: str, media_type: str) -> None:
    body, digest = client.push_image(repository, "v1", mediaType=media_type)
    got = client.send("GET", path_of(repository, digest))
    assert (got.body, got.headers["Content-Type"]) == (body, media_type)


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_LIST])
def test_both_list_types(client: Client, repository: str, media_type: str) -> None:
    children = [client.push_image(repository, f"child{number}")[0] for number in range(2)]
    body = encoded(index(*children, mediaType=media_type))
    assert client.put_manifest(repository, "all", body).status == 201
    got = client.send("GET", path_of(repository, "all"))
    assert (got.body, got.headers["Content-Type"]) == (body, media_type)


def test_a_tag_moves_and_the_old_manifest_stays(client: Client, repository: str) -> None:
    old, old_digest = client.push_image(repository, "v1")
    new, _ = client.push_image(repository, "v1")
    assert client.send("GET", path_of(repository, "v1")).body == new
    assert client.send("GET", path_of(repository, old_digest)).body == old


def test_pushing_the_same_again_is_fine(client: Client, repository: str) -> None:
    body, digest = client.push_image(repository, "v1")
    for reference in ("v1", "v2", digest):
        assert client.put_manifest(repository, reference, body).status == 201


def test_many_tags_in_one_put(client: Client, repository: str) -> None:
    body, digest = client.push_image(repository, "first")
    tags = [f"t{number}" for number in range(12)]
    query = "&".join(f"tag={tag}" for tag in [*tags, "t0"])
    reply = client.put_manifest(repository, f"{digest}?{query}", body)
    assert reply.status == 201
    assert reply.headers["OCI-Tag"].split(", ") == tags
    for tag in tags:
        assert client.send("GET", path_of(repository, tag)).body == body


def test_one_bad_tag_among_many_changes_nothing(client: Client, repository: str) -> None:
    body, digest = client.push_image(repository, "first")
    assert client.put_manifest(repository, f"{digest}?tag=good&tag=-bad", body).code() == "MANIFEST_INVALID"
    assert client.send("GET", path_of(repository, "good")).status == 404
    many = "&".join(f"tag=x{number}" for number in range(65))
    assert client.put_manifest(repository, f"{digest}?{many}", body).status == 414


class TestConditions:
    """If-Match and If-None-Match of a PUT are of the reference in the path."""

    def put(self, client: Client, repository: str, reference: str, body: bytes, **headers: str) -> int:
        named = {name.replace("_", "-"): value for name, value in headers.items()} | {"Content-Type": OCI_INDEX}
        reply = client.send("PUT", path_of(repository, reference), body, named)
        assert reply.status == 201 or (reply.status, reply.code()) == (412, "DENIED")
        return reply.status

    def test_a_tag_that_must_not_move(self, client: Client, repository: str) -> None:
        first, second = encoded(index()), encoded(index(annotations={"n": "2"}))
        assert self.put(client, repository, "v1", first, If_None_Match="*") == 201
        assert self.put(client, repository, "v1", first, If_None_Match="*") == 201  # the answer was lost
        assert self.put(client, repository, "v1?tag=v2", second, If_None_Match="*") == 412
        assert client.send("GET", path_of(repository, "v1")).body == first
        for absent in ("v2", sha256(second)):
            assert client.send("GET", path_of(repository, absent)).status == 404

    def test_a_tag_that_others_may_have_moved(self, client: Client, repository: str) -> None:
        bodies = [encoded(index(annotations={"n": str(n)})) for n in range(4)]
        tags = [f'"{sha256(body)}"' for body in bodies]
        assert self.put(client, repository, "v1", bodies[0], If_Match="*") == 412
        assert self.put(client, repository, "v1", bodies[0]) == 201
        assert client.send("HEAD", path_of(repository, "v1")).headers["ETag"] == tags[0]
        assert self.put(client, repository, "v1", bodies[1], If_Match=tags[0]) == 201
        assert self.put(client, repository, "v1", bodies[2], If_Match=tags[0]) == 412
        assert self.put(client, repository, "v1", bodies[2], If_Match=f"W/{tags[1]}") == 412  # strong comparison
        assert self.put(client, repository, "v1", bodies[2], If_None_Match=f'"x", W/{tags[1]}') == 412
        assert self.put(client, repository, "v1", bodies[2], If_Match="*", If_None_Match=tags[0]) == 201
        assert self.put(client, repository, "v1", bodies[3], If_Match=f'"x" , {tags[2]}') == 201
        assert client.send("GET", path_of(repository, "v1")).body == bodies[3]

    def test_a_deletion_that_depends_on_what_is_there(self, client: Client, repository: str) -> None:
        (_, first), (body, second) = client.push_image(repository, "v1"), client.push_image(repository, "v1")
        for reference in ("v1", second):
            for refused in ({"If-Match": f'"{first}"'}, {"If-Match": f'W/"{second}"'}, {"If-None-Match": "*"}):
                reply = client.send("DELETE", path_of(repository, reference), headers=refused)
                assert (reply.status, reply.code()) == (412, "DENIED")
                assert client.send("GET", path_of(repository, reference)).body == body
        for absent in ("v2", sha256(b"?")):
            assert client.send("DELETE", path_of(repository, absent), headers={"If-Match": "*"}).status == 404
        met = {"If-Match": f'"x", "{second}"', "If-None-Match": f'"{first}"'}
        assert client.send("DELETE", path_of(repository, "v1"), headers=met).status == 202
        assert client.send("DELETE", path_of(repository, second), headers=met).status == 202
        assert client.send("GET", path_of(repository, second)).status == 404

    def test_a_read_that_depends_on_what_is_there(self, client: Client, repository: str) -> None:
        _, digest = client.push_image(repository, "v1")
        for method in ("GET", "HEAD"):
            path = path_of(repository, "v1")
            assert client.send(method, path, headers={"If-Match": f'"{digest}"'}).status == 200
            both = {"If-Match": '"x"', "If-None-Match": f'"{digest}"'}
            assert client.send(method, path, headers=both).status == 412
            assert client.send(method, path_of(repository, "v2"), headers=both).status == 404


def test_sha512_manifests(client: Client, repository: str) -> None:
    body, _ = client.push_image(repository, "first")
    digest = "sha512:" + hashlib.sha512(body).hexdigest()
    reply = client.put_manifest(repository, f"{digest}?tag=strong", body)
    assert (reply.status, reply.headers["Docker-Content-Digest"]) == (201, digest)
    for reference in (digest, "strong"):
        got = client.send("GET", path_of(repository, reference))
        assert (got.body, got.headers["Docker-Content-Digest"]) == (body, digest)


def test_artifacts_of_custom_types_and_their_subjects(client: Client, repository: str) -> None:
    client.push(repository, b"{}")
    subject = descriptor(b"not pushed yet", OCI_MANIFEST)
    body = encoded(image(b"{}", artifactType="application/vnd.example+thing", subject=subject))
    reply = client.put_manifest(repository, sha256(body), body)
    assert (reply.status, reply.headers["OCI-Subject"]) == (201, subject["digest"])


def test_missing_blobs_are_named_one_by_one(client: Client, repository: str) -> None:
    client.push(repository, b"config")
    body = encoded(image(b"config", b"missing 1", b"missing 2"))
    reply = client.put_manifest(repository, "v1", body)
    assert (reply.status, reply.code()) == (400, "MANIFEST_BLOB_UNKNOWN")
    named = {entry["detail"]["digest"] for entry in reply.json()["errors"]}
    assert named == {sha256(b"missing 1"), sha256(b"missing 2")}
    for reference in ("v1", sha256(body)):
        assert client.send("GET", path_of(repository, reference)).status == 404


def test_a_blob_of_another_repository_is_missing(client: Client, repository: str) -> None:
    client.push(repository + "/other", b"secret config")
    reply = client.put_manifest(repository, "v1", encoded(image(b"secret config")))
    assert reply.code() == "MANIFEST_BLOB_UNKNOWN"


def test_missing_children_are_refused_and_children_may_be_blobs(client: Client, repository: str) -> None:
    body = encoded(index(b"child"))
    assert client.put_manifest(repository, "v1", body).code() == "MANIFEST_BLOB_UNKNOWN"
    client.push(repository, b"child")  # as a build cache does
    assert client.put_manifest(repository, "v1", body).status == 201


def test_foreign_layers_may_be_absent(client: Client, repository: str) -> None:
    client.push(repository, b"config")
    body = encoded(image(b"config", layers=[descriptor(b"of windows", FOREIGN)]))
    assert client.put_manifest(repository, "v1", body).status == 201


def test_a_digest_that_is_only_a_blob_is_no_manifest(client: Client, repository: str) -> None:
    digest = client.push(repository, b"just a blob")
    reply = client.send("GET", path_of(repository, digest))
    assert (reply.status, reply.code()) == (404, "MANIFEST_UNKNOWN")


@pytest.mark.parametrize("reference", ["absent", sha256(b"absent"), ".bad", "-x", "a" * 129])
@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_unknown_references_are_404(client: Client, repository: str, reference: str, method: str) -> None:
    client.push_image(repository, "v1")
    reply = client.send(method, path_of(repository, reference))
    assert reply.status == 404
    assert method == "HEAD" or reply.code() == "MANIFEST_UNKNOWN"


@pytest.mark.parametrize("reference", ["sha256:x", "md5:" + "0" * 32, ":", "a:b"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_malformed_digests_are_400(client: Client, repository: str, reference: str, method: str) -> None:
    reply = client.send(method, path_of(repository, reference), b"{}" if method == "PUT" else None)
    assert (reply.status, reply.code()) == (400, "DIGEST_INVALID")


def test_a_put_under_another_digest_is_400(client: Client, repository: str) -> None:
    body, _ = client.push_image(repository, "v1")
    reply = client.put_manifest(repository, sha256(b"other"), body)
    assert (reply.status, reply.code()) == (400, "DIGEST_INVALID")
    assert client.send("GET", path_of(repository, sha256(b"other"))).status == 404


@pytest.mark.parametrize("tag", [".bad", "a" * 129, "%2e%2e", "a%20b", "%C3%A4"])
def test_a_put_under_a_bad_tag_is_400(client: Client, repository: str, tag: str) -> None:
    body, _ = client.push_image(repository, "v1")
    assert client.put_manifest(repository, tag, body).code() == "MANIFEST_INVALID"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 1_000_000])
def test_garbage_is_400(client: Client, repository: str, body: bytes) -> None:
    for media_type in (OCI_MANIFEST, ""):
        reply = client.put_manifest(repository, "v1", body, media_type)
        assert (reply.status, reply.code()) == (400, "MANIFEST_INVALID")


def test_schema_1_is_refused_in_words(client: Client, repository: str) -> None:
    body = encoded({"schemaVersion": 1, "name": "a", "tag": "b", "fsLayers": [], "history": []})
    reply = client.put_manifest(repository, "v1", body, "application/vnd.docker.distribution.manifest.v1+prettyjws")
    assert (reply.status, reply.code()) == (400, "MANIFEST_INVALID")
    assert "schema version 1" in reply.json()["errors"][0]["message"]


def test_content_type_and_media_type_must_agree(client: Client, repository: str) -> None:
    body, _ = client.push_image(repository, "v1")
    assert client.put_manifest(repository, "v2", body, DOCKER_MANIFEST).code() == "MANIFEST_INVALID"


class TestSize:
    def of_size(self, client: Client, repository: str, size: int) -> bytes:
        client.push(repository, b"{}")
        body = encoded(image(b"{}", annotations={"filling": ""}))
        return body.replace(b'"filling": ""', b'"filling": "' + b"x" * (size - len(body)) + b'"')

    def test_four_megabytes_are_taken(self, client: Client, repository: str) -> None:
        body = self.of_size(client, repository, 4 << 20)
        assert len(body) == 4 << 20
        assert client.put_manifest(repository, "big", body, OCI_MANIFEST).status == 201
        assert client.send("GET", path_of(repository, "big")).body == body

    @pytest.mark.parametrize("chunked", [False, True])
    def test_more_is_413(self, client: Client, repository: str, chunked: bool) -> None:
        body = self.of_size(client, repository, (4 << 20) + 1)
        sent = iter([body]) if chunked else body
        reply = client.send("PUT", path_of(repository, "big"), sent, {"Content-Type": OCI_MANIFEST})
        assert (reply.status, reply.code()) == (413, "SIZE_INVALID")
        assert client.send("GET", path_of(repository, "big")).status == 404

    def test_an_announcement_of_too_much_is_refused_before_it_is_sent(self, client: Client, repository: str) -> None:
        with client.socket() as sock:
            target = path_of(repository, "big")
            sock.sendall(f"PUT {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n".encode())
            assert sock.recv(12) == b"HTTP/1.1 413"


def test_a_cut_manifest_makes_no_name(client: Client, repository: str) -> None:
    body, _ = client.push_image(repository, "v1")
    with client.socket() as sock:
        head = f"PUT {path_of(repository, 'cut')} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body) + 1}\r\n\r\n"
        sock.sendall(head.encode() + body)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(4096):
            pass
    assert client.send("GET", path_of(repository, "cut")).status == 404


class TestDelete:
    def test_a_tag_goes_and_its_manifest_stays(self, client: Client, repository: str) -> None:
        body, digest = client.push_image(repository, "v1")
        reply = client.send("DELETE", path_of(repository, "v1"))
        assert (reply.status, reply.body) == (202, b"")
        assert client.send("GET", path_of(repository, "v1")).status == 404
        assert client.send("GET", path_of(repository, digest)).body == body
        assert client.send("DELETE", path_of(repository, "v1")).status == 404

    def test_a_manifest_goes_with_all_its_tags(self, client: Client, repository: str) -> None:
        body, digest = client.push_image(repository, "v1")
        client.put_manifest(repository, "v2", body)
        assert client.send("DELETE", path_of(repository, digest)).status == 202
        for reference in ("v1", "v2", digest):
            assert client.send("GET", path_of(repository, reference)).status == 404
        assert client.send("DELETE", path_of(repository, digest)).status == 404

    def test_in_another_repository_the_manifest_stays(self, client: Client, repository: str) -> None:
        client.push(repository, b"{}")
        client.push(repository + "/b", b"{}")
        body = encoded(image(b"{}"))
        for name in (repository, repository + "/b"):
            assert client.put_manifest(name, "v1", body).status == 201
        client.send("DELETE", path_of(repository, sha256(body)))
        assert client.send("GET", path_of(repository + "/b", "v1")).body == body


def test_layers_of_unknown_types_are_layers(client: Client, repository: str) -> None:
    client.push(repository, b"config")
    client.push(repository, b"layer")
    layers = [descriptor(b"layer", "application/x-anything"), descriptor(b"layer", LAYER_TYPE)]
    assert client.put_manifest(repository, "v1", encoded(image(b"config", layers=layers))).status == 201


@pytest.mark.parametrize("part", ["config", "layer"])
def test_a_manifest_with_the_wrong_size_of_a_blob_is_refused_because_no_client_could_pull_it(
    client: Client, repository: str, part: str
) -> None:
    client.push(repository, b"config")
    client.push(repository, b"layer")
    document = image(b"config", b"layer")
    (document["config"] if part == "config" else document["layers"][0])["size"] += 1
    reply = client.put_manifest(repository, "v1", encoded(document))
    assert (reply.status, reply.code()) == (400, "MANIFEST_INVALID")
    assert client.send("GET", f"/v2/{repository}/manifests/v1").status == 404
