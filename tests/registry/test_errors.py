"""Every failure is an answer in the API's form, whatever is asked for."""

from __future__ import annotations

import pytest

from registry_driver.oci_errors import error_answer
from tests.registry.client import Client, read_reply
from tests.registry.documents import sha256
from wire import errors
from wire.version import version

DIGEST = sha256(b"x")

CASES: list[tuple[str, str, int, str]] = [
    # nothing there
    ("GET", "/", 404, "UNSUPPORTED"),
    ("GET", "/v1/", 404, "UNSUPPORTED"),
    ("GET", "/v2/x", 404, "UNSUPPORTED"),
    ("GET", "/v2//", 404, "UNSUPPORTED"),
    ("GET", "/v2/a/b/c/d", 404, "UNSUPPORTED"),
    ("GET", "/v2/a/manifests/", 404, "UNSUPPORTED"),
    ("GET", "/v2/a/tags", 404, "UNSUPPORTED"),
    ("POST", "/anything", 404, "UNSUPPORTED"),
    # names that are none
    ("GET", "/v2/A/tags/list", 400, "NAME_INVALID"),
    ("GET", "/v2/a//b/tags/list", 400, "NAME_INVALID"),
    ("GET", "/v2/../../etc/manifests/passwd", 400, "NAME_INVALID"),
    ("GET", "/v2/a/../b/manifests/v1", 400, "NAME_INVALID"),
    ("GET", "/v2/%2e%2e/manifests/v1", 400, "NAME_INVALID"),
    ("GET", "/v2/a%2fb/manifests/v1", 400, "NAME_INVALID"),
    ("GET", "/v2/a%2Fb/manifests/v1", 400, "NAME_INVALID"),
    ("GET", "/v2/%C3%A4/manifests/v1", 400, "NAME_INVALID"),
    ("GET", "/v2/%ff%fe/manifests/v1", 400, "NAME_INVALID"),
    ("GET", "/v2/a%00b/manifests/v1", 400, "NAME_INVALID"),
    ("GET", "/v2/a%0ab/manifests/v1", 404, "UNSUPPORTED"),
    ("GET", f"/v2/{'a' * 256}/manifests/v1", 400, "NAME_INVALID"),
    ("GET", f"/v2/{'a/' * 2000}manifests/v1", 400, "NAME_INVALID"),
    ("POST", "/v2/A/blobs/uploads/", 400, "NAME_INVALID"),
    ("PUT", "/v2/A_/manifests/v1", 400, "NAME_INVALID"),
    # methods that are none here
    ("POST", "/v2/", 405, "UNSUPPORTED"),
    ("DELETE", "/v2/a/tags/list", 405, "UNSUPPORTED"),
    ("POST", f"/v2/a/blobs/{DIGEST}", 405, "UNSUPPORTED"),
    ("PUT", f"/v2/a/blobs/{DIGEST}", 405, "UNSUPPORTED"),
    ("GET", "/v2/a/blobs/uploads/", 405, "UNSUPPORTED"),
    ("POST", "/v2/a/manifests/v1", 405, "UNSUPPORTED"),
    ("PATCH", "/v2/a/manifests/v1", 405, "UNSUPPORTED"),
    ("PROPFIND", "/v2/a/manifests/v1", 405, "UNSUPPORTED"),
    ("OPTIONS", "/v2/a", 404, "UNSUPPORTED"),
    ("PROPFIND", "/v2/A/manifests/v1", 400, "NAME_INVALID"),
    ("PUT", f"/v2/a/referrers/{DIGEST}", 405, "UNSUPPORTED"),
    ("POST", "/v2/_catalog", 405, "UNSUPPORTED"),
    # unknown things
    ("GET", "/v2/a/tags/list", 404, "NAME_UNKNOWN"),
    ("GET", "/v2/a/manifests/v1", 404, "MANIFEST_UNKNOWN"),
    ("GET", f"/v2/a/blobs/{DIGEST}", 404, "BLOB_UNKNOWN"),
    ("GET", "/v2/a/blobs/uploads/x", 404, "BLOB_UPLOAD_UNKNOWN"),
    # digests
    ("POST", "/v2/a/blobs/uploads/?digest=x", 400, "DIGEST_INVALID"),
    ("POST", "/v2/a/blobs/uploads/?digest-algorithm=md5", 400, "DIGEST_INVALID"),
]


@pytest.mark.parametrize(("method", "path", "status", "code"), CASES, ids=lambda value: str(value)[:60])
def test_case(client: Client, method: str, path: str, status: int, code: str) -> None:
    reply = client.send(method, path, b"{}" if method in ("POST", "PUT", "PATCH") else None)
    assert (reply.status, reply.code()) == (status, code)
    if status == 405:
        allowed = reply.headers["Allow"]
        assert method not in allowed.split(", ")
        options = client.send("OPTIONS", path)
        assert (options.status, options.headers["Allow"], options.body) == (204, allowed, b"")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_error_leaves_the_connection_usable(client: Client, method: str) -> None:
    for _ in range(3):
        assert client.send(method, "/v2/nowhere/manifests/v1").status == 404
        assert client.send("POST", "/v2/A/blobs/uploads/", b"x" * 100_000).status == 400
    assert client.send("GET", "/v2/").status == 200


def test_an_early_error_is_heard_by_a_client_that_is_still_sending(client: Client) -> None:
    body = b"x" * 30_000_000
    reply = client.send("PATCH", "/v2/a/blobs/uploads/00000000-0000-0000-0000-000000000000", body)
    assert (reply.status, reply.code()) == (404, "BLOB_UPLOAD_UNKNOWN")


def test_an_early_error_does_not_wait_for_a_client_that_sends_nothing_more(client: Client) -> None:
    with client.socket() as sock:
        sock.sendall(b"PUT /v2/A/manifests/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
        reply = read_reply(sock)
    assert (reply.status, reply.code(), reply.headers["Connection"]) == (400, "NAME_INVALID", "close")


def test_who_asks_outside_the_api_is_told_where_it_is(client: Client) -> None:
    for path in ("/", "/library/alpine"):
        (error,) = client.send("GET", path).json()["errors"]
        assert "begins at /v2/" in error["message"]


def test_health_and_metrics_are_beside_the_api(client: Client) -> None:
    health = client.send("GET", "/healthz").json()
    assert health == {"status": "ok", "service": "registry", "version": version()}
    assert version()
    assert client.send("GET", "/readyz").status == 200
    client.send("HEAD", "/v2/a/manifests/v1")
    metrics = client.send("GET", "/metrics").body
    assert b'speedy_requests_total{method="HEAD",room="registry",route="/v2/ manifest",status="404"}' in metrics


@pytest.mark.parametrize("kind", sorted(errors.ERRORS_BY_CODE.values(), key=lambda kind: kind.code))
def test_every_error_of_the_tree_has_an_answer(kind: type[errors.SpeedyError]) -> None:
    told = error_answer(kind("in /secret/path", offset=1, digests=[DIGEST], fid=7))
    assert 400 <= told.status <= 599
    if told.status >= 500 and kind not in (errors.Overloaded, errors.StorageFull):
        assert b"secret" not in told.body
        assert b"fid" not in told.body
    if told.status == 503:
        assert int(told.headers["Retry-After"]) > 0


def test_a_defect_is_told_without_its_inside() -> None:
    told = error_answer(KeyError("secret"))
    assert told.status == 500
    assert b"secret" not in told.body
