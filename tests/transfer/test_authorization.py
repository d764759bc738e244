"""Who the client says it is, to whom, and where it has that from."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path

import pytest

from speedy.transfer.authorization import RegistryAuthorization
from speedy.transfer.credentials import Login, find_login
from speedy.transfer.errors import TransferError
from tests.clients.images import Image, Index, layout_blobs
from tests.transfer.conftest import Client
from tests.transfer.small_registry import Habits, SmallRegistry

_PASSWORD = "secret:with:colons"


def _log_in(client: Client, **config: object) -> None:
    (client.docker_config / "config.json").write_text(json.dumps(config))


def _auths(address: str, password: str = _PASSWORD) -> dict[str, dict[str, str]]:
    return {address: {"auth": base64.b64encode(f"ann:{password}".encode()).decode()}}


@pytest.mark.parametrize("asks_for", ["basic", "bearer"])
def test_the_login_of_dockers_configuration_is_used(
    client: Client, platforms: Index, tmp_path: Path, asks_for: str
) -> None:
    with SmallRegistry(Habits(asks_for=asks_for)) as registry:
        _log_in(client, auths=_auths(registry.address))
        client.run("push", platforms.layout, f"{registry.address}/a:v1")
        client.run("pull", f"{registry.address}/a:v1", tmp_path / "layout")
        assert layout_blobs(tmp_path / "layout") == layout_blobs(platforms.layout)
        if asks_for == "bearer":
            query, authorization = registry.tokens_asked[0]
            assert authorization.startswith("Basic ")
            assert query["service"] == ["small, registry"]
            assert "repository:a:pull,push" in query["scope"]
            # The password goes to the token service alone.
            assert not [
                1 for _, _, headers in registry.requests if headers.get("authorization", "").startswith("Basic")
            ]


def test_without_a_login_the_token_is_anonymous(client: Client, platforms: Index) -> None:
    with SmallRegistry(Habits(asks_for="bearer")) as registry:
        client.run("push", platforms.layout, f"{registry.address}/a:v1")
        assert {authorization for _, authorization in registry.tokens_asked} == {""}


def test_a_token_that_ends_in_the_middle_is_replaced(client: Client, platforms: Index) -> None:
    with SmallRegistry(Habits(asks_for="bearer", token_uses=3)) as registry:
        _log_in(client, auths=_auths(registry.address))
        client.run("push", platforms.layout, f"{registry.address}/a:v1", "--piece", "512KiB", "--jobs", "1")
        assert len(registry.tokens_asked) > 3
        assert len(registry.content.blobs) == len(layout_blobs(platforms.layout)) - 3


def test_a_credential_helper_is_asked(client: Client, platforms: Index, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    helper = tmp_path / "bin" / "docker-credential-small"
    helper.write_text(
        '#!/bin/sh\nread registry\n[ "$1" = get ] || exit 2\n'
        "case $registry in 127.0.0.1:*) ;; *) echo credentials not found; exit 1;; esac\n"
        f'echo \'{{"Username": "ann", "Secret": "{_PASSWORD}"}}\'\n'
    )
    helper.chmod(helper.stat().st_mode | stat.S_IXUSR)
    client.variables["PATH"] = f"{tmp_path}/bin:/usr/bin:/bin"
    for how in ("helper", "store"):
        with SmallRegistry(Habits(asks_for="basic")) as registry:
            if how == "helper":
                _log_in(client, credHelpers={registry.address: "small"})
            else:
                _log_in(client, credsStore="small", auths={registry.address: {}})
            client.run("push", platforms.layout, f"{registry.address}/a:v1")
    _log_in(client, credsStore="missing")
    assert "docker-credential-missing" in client.run("push", platforms.layout, "127.0.0.1:1/a", code=1).stderr


def test_an_identity_token_becomes_an_access_token(client: Client, platforms: Index) -> None:
    with SmallRegistry(Habits(asks_for="bearer")) as registry:
        _log_in(client, auths={registry.address: {"auth": "", "identitytoken": "identity"}})
        client.run("push", platforms.layout, f"{registry.address}/a:v1")
        query, _ = registry.tokens_asked[0]
        assert (query["grant_type"], query["refresh_token"]) == (["refresh_token"], ["identity"])


@pytest.mark.parametrize("asks_for", ["basic", "bearer"])
def test_a_wrong_password_ends_it_at_once(client: Client, platforms: Index, asks_for: str) -> None:
    with SmallRegistry(Habits(asks_for=asks_for)) as registry:
        _log_in(client, auths=_auths(registry.address, "wrong"))
        done = client.run("push", platforms.layout, f"{registry.address}/a:v1", "--jobs", "1", code=1)
        assert "wrong password" in done.stderr or "not logged in" in done.stderr
        assert "wrong" not in done.stderr.replace("wrong password", "")
        assert registry.content.blobs == {}
        assert len(registry.requests) <= 3


def test_a_wrong_password_is_told_before_layers_are_packed(client: Client, small: Image) -> None:
    with SmallRegistry(Habits(asks_for="basic")) as registry:
        _log_in(client, auths=_auths(registry.address, "wrong"))
        done = client.run("push", small.archive, f"{registry.address}/a:v1", code=1)
    assert "not logged in" in done.stderr
    assert "packing" not in done.stderr
    assert "the same command" not in done.stderr


def test_a_login_crosses_plain_http_to_this_machine_only() -> None:
    def fetch(*_: object) -> bytes:
        raise AssertionError("nothing may be sent")

    scopes = frozenset({"repository:a:pull"})
    login = Login("ann", _PASSWORD)
    for challenge in ('Basic realm="x"', 'Bearer realm="http://tokens.example/",service="x"'):
        authorization = RegistryAuthorization("http://registry.example", login)
        with pytest.raises(TransferError, match="everybody on the way could read it"):
            authorization.challenged(challenge, scopes, None, fetch)
        assert authorization.header(scopes) is None
    allowed = RegistryAuthorization("http://registry.example", login, plain_http_allowed=True)
    assert allowed.challenged('Basic realm="x"', scopes, None, fetch)
    assert allowed.header(scopes) == login.basic
    assert _PASSWORD not in repr(login)


@pytest.mark.parametrize(
    "key", ["registry.example:5000", "https://registry.example:5000", "https://registry.example:5000/v1/"]
)
def test_addresses_are_found_as_old_and_new_dockers_wrote_them(tmp_path: Path, key: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"auths": _auths(key)}))
    assert find_login("registry.example:5000", tmp_path / "config.json") == Login("ann", _PASSWORD)
    assert find_login("registry.example", tmp_path / "config.json") is None
    assert find_login("registry.example:5000", tmp_path / "none.json") is None


def test_the_hubs_login_has_a_name_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"auths": _auths("https://index.docker.io/v1/")}))
    assert find_login("docker.io", tmp_path / "config.json") == Login("ann", _PASSWORD)
