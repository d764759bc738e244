"""Over TLS, and over plain HTTP only where that is wanted. 127.1 is this machine by a name that does not look so."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from tests.clients.images import Index
from tests.needs import program
from tests.transfer.conftest import Client
from tests.transfer.small_registry import Habits, SmallRegistry


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PEM file of a key and a certificate for 127.0.0.1 that nobody knows."""
    directory = tmp_path_factory.mktemp("tls")
    argv = [program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"]
    argv += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", directory / "key", "-out", directory / "certificate"]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    both = directory / "both.pem"
    both.write_bytes((directory / "key").read_bytes() + (directory / "certificate").read_bytes())
    return both


def _tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_an_unknown_certificate_is_refused_at_once_and_taken_where_it_is_told(
    client: Client, platforms: Index, certificate: Path
) -> None:
    with SmallRegistry(tls=_tls(certificate)) as registry:
        done = client.run("push", platforms.layout, f"https://{registry.address}/a:v1", code=1)
        assert "certificate" in done.stderr.lower()
        assert "trying again" not in done.stderr
        client.run("push", platforms.layout, f"{registry.address}/a:v1", "--ca", certificate)
        client.run("push", platforms.layout, f"https://{registry.address}/a:v2", "--tls-verify", "false")
        assert {"v1", "v2"} < set(registry.content.manifests)
        # The registry names itself by http in each Location, as those behind a proxy do.
        assert registry.sent("PATCH")


def test_without_verification_a_registry_may_speak_plain_http(client: Client, platforms: Index) -> None:
    with SmallRegistry() as registry:
        elsewhere = registry.address.replace("127.0.0.1", "127.1")
        done = client.run("push", platforms.layout, f"{elsewhere}/a:v1", "--retries", "0", code=1)
        assert "https://127.1" in done.stderr
        client.run("push", platforms.layout, f"{elsewhere}/a:v1", "--tls-verify=false")
        client.run("push", platforms.layout, f"{elsewhere}/a:v2", "--plain-http")
        assert {"v1", "v2"} < set(registry.content.manifests)


def test_no_password_crosses_plain_http_to_others_unless_it_is_told(client: Client, platforms: Index) -> None:
    with SmallRegistry(Habits(asks_for="basic")) as registry:
        elsewhere = registry.address.replace("127.0.0.1", "127.1")
        arguments = ["push", platforms.layout, f"{elsewhere}/a:v1", "--plain-http", "--username", "ann"]
        done = client.run(*arguments, "--password-stdin", stdin="secret:with:colons\n", code=1)
        assert "--allow-http-credentials" in done.stderr
        assert not [headers for _, _, headers in registry.requests if "authorization" in headers]
        arguments += ["--password-stdin", "--allow-http-credentials"]
        client.run(*arguments, stdin="secret:with:colons\n")
        assert "v1" in registry.content.manifests
