import os
import stat
from pathlib import Path

import pytest

from tests.wire.echo import SECRET
from tests.wire.raw import RawConnection, head
from tests.wire.serving import Server
from wire.auth import SKEW_MAX_S, ClusterKey
from wire.errors import Unauthorized
from wire.http import ServiceClient

KEY = ClusterKey(SECRET)


def test_a_signature_holds_for_its_request_only() -> None:
    header = KEY.sign("GET", "/v1/chunks/7?limit=5", now_s=1000.7)
    KEY.verify(header, "GET", "/v1/chunks/7?limit=5", now_s=1000)
    for method, target in (
        ("PUT", "/v1/chunks/7?limit=5"),
        ("GET", "/v1/chunks/8?limit=5"),
        ("GET", "/v1/chunks/7?limit=6"),
        ("GET", "/v1/chunks/7"),
        ("GET", "/v1/chunks/7?limit=5&x"),
        ("GET", "/v1/chunks/%37?limit=5"),
    ):
        with pytest.raises(Unauthorized):
            KEY.verify(header, method, target, now_s=1000)


def test_a_signature_holds_for_a_bounded_time() -> None:
    header = KEY.sign("GET", "/", now_s=10_000)
    for now_s in (10_000 - SKEW_MAX_S, 10_000 + SKEW_MAX_S):
        KEY.verify(header, "GET", "/", now_s=now_s)
    with pytest.raises(Unauthorized, match="301 s ahead"):
        KEY.verify(header, "GET", "/", now_s=10_000 - SKEW_MAX_S - 1)
    with pytest.raises(Unauthorized, match="301 s behind"):
        KEY.verify(header, "GET", "/", now_s=10_000 + SKEW_MAX_S + 1)


def test_another_key_and_altered_headers_are_refused() -> None:
    header = KEY.sign("GET", "/", now_s=1000)
    with pytest.raises(Unauthorized, match="another cluster key"):
        ClusterKey.generate().verify(header, "GET", "/", now_s=1000)
    for altered in (
        None,
        "",
        "Basic abc",
        header + "0",
        header.replace("t=1000", "t=1001"),
        header.upper(),
        header[:-1],
    ):
        with pytest.raises(Unauthorized):
            KEY.verify(altered, "GET", "/", now_s=1000)


def test_short_and_endless_secrets_are_refused() -> None:
    for secret in (b"", b"x" * 31, b"x" * 4097):
        with pytest.raises(ValueError, match="32 to 4096 bytes"):
            ClusterKey(secret)


def test_a_key_file_keeps_the_key_is_private_and_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "cluster.key"
    key = ClusterKey.generate()
    before = os.umask(0)
    try:
        key.save(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    ClusterKey.load(path).verify(key.sign("GET", "/"), "GET", "/")
    with pytest.raises(FileExistsError):
        ClusterKey.generate().save(path)
    ClusterKey.load(path).verify(key.sign("GET", "/"), "GET", "/")
    assert [p.name for p in tmp_path.iterdir()] == ["cluster.key"]


def test_an_empty_key_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "cluster.key"
    path.write_text(" \n")
    with pytest.raises(ValueError, match=r"cluster\.key"):
        ClusterKey.load(path)


def test_a_server_with_a_key_answers_401_without_it_and_with_another(keyed_server: Server) -> None:
    with ServiceCalls(keyed_server, ClusterKey.generate()) as client, pytest.raises(Unauthorized):
        client.json("GET", "/who")
    status, body = keyed_server.get("/who")
    assert (status, b"unauthorized" in body) == (401, True)
    assert keyed_server.get("/no/such/route")[0] == 401, "strangers do not learn which routes there are"
    for path in ("/healthz", "/readyz", "/metrics"):
        assert keyed_server.get(path)[0] == 200


def test_a_server_refuses_a_signature_for_another_target_or_time(keyed_server: Server) -> None:
    cases = {
        KEY.sign("GET", "/who"): 200,
        KEY.sign("GET", "/who?a=1"): 401,
        KEY.sign("GET", "/slow/0"): 401,
        KEY.sign("PUT", "/who"): 401,
        KEY.sign("GET", "/who", now_s=1000): 401,
    }
    with RawConnection(keyed_server.port) as raw:
        for header, status in cases.items():
            assert raw.ask(head("GET", "/who", f"Authorization: {header}")).status == status


@pytest.mark.parametrize("value", ["plain", "a b", "a/b?c&d=e", "ü€", "100%", "+", ""])
def test_what_is_signed_is_what_goes_over_the_wire(keyed_server: Server, value: str) -> None:
    with ServiceCalls(keyed_server, KEY) as client:
        told = client.json("GET", "/who", params={"q": value, "left_out": None, "n": 5})
    assert told["target"].startswith("/who?q=")
    assert told["target"].endswith("&n=5")


class ServiceCalls(ServiceClient):
    """A client that closes its connections at the end of a block."""

    def __init__(self, server: Server, key: ClusterKey) -> None:
        super().__init__(server.url, key)

    def __enter__(self) -> ServiceClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
