"""The API as a whole: endpoints, errors, HTTP, and what proxies add, named by heading."""

from __future__ import annotations

import re

import pytest

from tests.conformance.api import Api, blob_path, manifest_path, uploads_path
from tests.registry.client import read_reply
from tests.registry.codes import CODES
from tests.registry.documents import encoded, sha256

MANIFEST, BLOB, UPLOADS = "/v2/{name}/manifests/", "/v2/{name}/blobs/", "/v2/{name}/blobs/uploads/"
DIGEST = sha256(b"?")


@pytest.mark.parametrize(
    "asked",
    [
        ("end-1", "GET", "/v2/", 200),
        ("end-2", "GET", BLOB + "{blob}", 200),
        ("end-2", "HEAD", BLOB + "{blob}", 200),
        ("end-3", "GET", MANIFEST + "{tag}", 200),
        ("end-3", "HEAD", MANIFEST + "{tag}", 200),
        ("end-4a", "POST", UPLOADS, 202),
        ("end-4b", "POST", UPLOADS + "?digest={content}", 201),
        ("end-4c", "POST", UPLOADS + "?digest-algorithm=sha512", 202),
        ("end-5", "PATCH", UPLOADS + "{upload}", 202),
        ("end-6", "PUT", UPLOADS + "{upload}?digest={content}", 201),
        ("end-7a", "PUT", MANIFEST + "{tag}", 201),
        ("end-7b", "PUT", MANIFEST + "{manifest}?tag=1&tag=2&tag=3", 201),
        ("end-8a", "GET", "/v2/{name}/tags/list", 200),
        ("end-8b", "GET", "/v2/{name}/tags/list?n=1&last=a", 200),
        ("end-9", "DELETE", MANIFEST + "{tag}", 202),
        ("end-9", "DELETE", MANIFEST + "{manifest}", 202),
        ("end-10", "DELETE", BLOB + "{blob}", 202),
        ("end-11", "POST", UPLOADS + "?mount={blob}&from={name}", 201),
        ("end-12a", "GET", "/v2/{name}/referrers/{manifest}", 200),
        ("end-12b", "GET", "/v2/{name}/referrers/{manifest}?artifactType=a/b", 200),
        ("end-13", "GET", UPLOADS + "{upload}", 204),
        ("end-14", "DELETE", UPLOADS + "{upload}", 204),
    ],
    ids=lambda asked: " ".join(asked[:2]),
)
def test_endpoints_of_every_category_are_served(api: Api, repository: str, asked: tuple[str, str, str, int]) -> None:
    row, method, path, status = asked
    manifest = encoded(api.config(repository))
    api.put_manifest(repository, "v1", manifest)
    path = path.format(
        name=repository,
        blob=api.push(repository, b"blob"),
        content=sha256(b"content"),
        tag="v1",
        manifest=sha256(manifest),
        upload=api.open_upload(repository).rpartition("/")[2],
    )
    body = manifest if "/manifests/" in path else b"content"
    headers = {"Content-Type": "application/vnd.oci.image.manifest.v1+json"} if "/manifests/" in path else {}
    sent = body if method in ("PUT", "PATCH") or row == "end-4b" else None
    assert api.send(method, path, sent, headers).status == status


@pytest.mark.parametrize(
    "asked",
    [
        ("end-2", "GET", BLOB + DIGEST, 404),
        ("end-3", "GET", MANIFEST + "v1", 404),
        ("end-4b", "POST", UPLOADS + "?digest=x", 400),
        ("end-4c", "POST", UPLOADS + "?digest-algorithm=x", 400),
        ("end-5", "PATCH", UPLOADS + "x", 404),
        ("end-6", "PUT", UPLOADS + "x?digest=" + DIGEST, 404),
        ("end-7a", "PUT", MANIFEST + "v1", 400),
        ("end-8a", "GET", "/v2/{name}/tags/list", 404),
        ("end-9", "DELETE", MANIFEST + "v1", 404),
        ("end-10", "DELETE", BLOB + DIGEST, 404),
        ("end-12a", "GET", "/v2/{name}/referrers/x", 400),
        ("end-13", "GET", UPLOADS + "x", 404),
        ("end-14", "DELETE", UPLOADS + "x", 404),
    ],
    ids=lambda asked: " ".join(asked[:2]),
)
def test_error_codes_come_in_the_form_and_from_the_list_of_the_specification(
    api: Api, repository: str, asked: tuple[str, str, str, int]
) -> None:
    row, method, path, status = asked
    reply = api.send(method, path.format(name=repository), b"x" if method in ("PUT", "PATCH", "POST") else None)
    assert reply.status == status, row
    assert reply.headers["Content-Type"] == "application/json"
    told = reply.json()["errors"]
    assert told
    for error in told:
        assert error["code"] in CODES
        assert re.fullmatch("[A-Z_]+", error["code"])
        assert isinstance(error["message"], str)
        assert error["message"].isprintable()
        assert "detail" in error


def test_determining_support_is_200(api: Api) -> None:
    assert api.statuses("GET", "/v2/") == {200}


def test_legacy_docker_support_http_headers_are_sent(api: Api, repository: str) -> None:
    assert api.send("GET", "/v2/").headers["Docker-Distribution-Api-Version"] == "registry/2.0"
    assert api.send("GET", blob_path(repository, DIGEST)).headers["Docker-Distribution-Api-Version"] == "registry/2.0"
    assert api.send("POST", uploads_path(repository), b"").headers["Docker-Upload-UUID"]


def test_registry_proxying_parameter_ns_is_ignored(api: Api, repository: str) -> None:
    body = encoded(api.config(repository))
    blob = api.push(repository, b"blob")
    assert api.put_manifest(repository, "v1?ns=example.org", body).status == 201
    for path in (
        manifest_path(repository, "v1"),
        manifest_path(repository, sha256(body)),
        blob_path(repository, blob),
        f"/v2/{repository}/tags/list",
        f"/v2/{repository}/referrers/{sha256(body)}",
    ):
        plain, scoped = api.send("GET", path), api.send("GET", f"{path}?ns=example.org")
        assert (scoped.status, scoped.body) == (200, plain.body)
        assert scoped.headers["OCI-Namespace"] is None


def test_api_head_has_the_headers_of_get_and_no_body(api: Api, repository: str) -> None:
    api.push_document(repository, api.config(repository), "v1")
    blob = api.push(repository, b"blob")
    for path in (
        "/v2/",
        f"/v2/{repository}/tags/list",
        manifest_path(repository, "v1"),
        blob_path(repository, blob),
    ):
        get, head = api.send("GET", path), api.send("HEAD", path)
        assert (head.status, head.body) == (get.status, b"")
        for name in ("Content-Type", "Content-Length", "ETag", "Docker-Content-Digest", "Accept-Ranges"):
            assert head.headers[name] == get.headers[name]


def test_api_other_methods_are_405_with_those_that_are_allowed(api: Api, repository: str) -> None:
    for path in (
        "/v2/",
        f"/v2/{repository}/tags/list",
        manifest_path(repository, "v1"),
        blob_path(repository, DIGEST),
    ):
        reply = api.send("PATCH", path, b"")
        assert (reply.status, reply.code()) == (405, "UNSUPPORTED")
        assert {"GET", "HEAD"} <= set(reply.headers["Allow"].split(", "))


def test_api_what_the_client_has_is_304(api: Api, repository: str) -> None:
    api.push_document(repository, api.config(repository), "v1")
    for path in (manifest_path(repository, "v1"), blob_path(repository, api.push(repository, b"blob"))):
        etag = api.send("HEAD", path).headers["ETag"]
        for method in ("GET", "HEAD"):
            for known in (etag, f'"x", W/{etag}', "*"):
                reply = api.send(method, path, headers={"If-None-Match": known})
                assert (reply.status, reply.body, reply.headers["ETag"]) == (304, b"", etag)
            assert api.send(method, path, headers={"If-None-Match": '"x"'}).status == 200


def test_api_what_is_expected_is_continued(api: Api, repository: str) -> None:
    with api.socket() as sock:
        head = f"POST {uploads_path(repository)}?digest={sha256(b'body')} HTTP/1.1\r\nHost: x\r\n"
        sock.sendall(f"{head}Expect: 100-continue\r\nContent-Length: 4\r\n\r\n".encode())
        assert sock.recv(100).startswith(b"HTTP/1.1 100 ")
        sock.sendall(b"body")
        assert read_reply(sock).status == 201


def test_api_a_request_line_beyond_the_limit_is_414_and_a_head_431(api: Api) -> None:
    assert api.send("GET", "/v2/" + "a" * 9000).status == 414
    assert api.send("GET", "/v2/", headers={f"X-{n}": "x" * 8000 for n in range(12)}).status == 431


def test_api_answers_without_redirect(api: Api, repository: str) -> None:
    digest = api.push(repository, b"blob")
    paths = ("/v2", "/v2/", uploads_path(repository).rstrip("/"), blob_path(repository, digest))
    statuses = {api.send("POST" if "uploads" in path else "GET", path).status for path in paths}
    assert statuses == {200, 202}
