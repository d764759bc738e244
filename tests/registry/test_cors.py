"""Pages of other sites, as browsers ask for them: a known one may use the registry, others may not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.registry.client import Client, client_of, faults_directory
from tests.wire.serving import serving

KNOWN, OTHER = "https://ui.example:8443", "https://other.example"
ALLOWED = "Access-Control-Allow-"


@pytest.fixture(scope="module")
def browsed() -> Iterator[Client]:
    """A registry with a web interface."""
    with (
        faults_directory() as directory,
        serving(
            "tests.registry.served:build",
            {"directory": str(directory), "web_origins": ["http://first.example", KNOWN]},
            threads=32,
        ) as server,
    ):
        yield client_of(server, directory)


def test_a_known_page_reads_what_it_needs_to_list_and_delete(browsed: Client) -> None:
    _, digest = browsed.push_image("a", "v1")
    for path in ("/v2/", "/v2/_catalog", "/v2/a/tags/list", "/v2/a/manifests/v1", "/v2/a/manifests/none", "/v2/?x"):
        reply = browsed.send("GET", path, headers={"Origin": KNOWN})
        assert reply.headers[f"{ALLOWED}Origin"] == KNOWN
        assert reply.headers[f"{ALLOWED}Credentials"] == "true"
        assert "Docker-Content-Digest" in reply.headers["Access-Control-Expose-Headers"]
        assert reply.headers["Vary"] == "Origin"
    asked = {"Origin": KNOWN, "Access-Control-Request-Method": "DELETE", "Access-Control-Request-Headers": "accept"}
    preflight = browsed.send("OPTIONS", f"/v2/a/manifests/{digest}", headers=asked)
    assert (preflight.status, preflight.headers[f"{ALLOWED}Origin"]) == (204, KNOWN)
    assert "DELETE" in preflight.headers[f"{ALLOWED}Methods"].split(", ")
    assert {"Accept", "Authorization"} <= set(preflight.headers[f"{ALLOWED}Headers"].split(", "))
    assert int(preflight.headers["Access-Control-Max-Age"]) > 0


@pytest.mark.parametrize("origin", [OTHER, "null", "*", KNOWN.upper(), KNOWN + "/", f"{KNOWN}, {KNOWN}", ""])
def test_other_pages_are_told_nothing(browsed: Client, origin: str) -> None:
    for method in ("GET", "OPTIONS"):
        reply = browsed.send(method, "/v2/", headers={"Origin": origin})
        assert [name for name in reply.headers if name.startswith("Access-Control-")] == []
        assert reply.headers["Vary"] == "Origin", "a cache must not give this answer to a known page"


def test_without_the_setting_no_page_is_known(client: Client) -> None:
    for method in ("GET", "OPTIONS"):
        reply = client.send(method, "/v2/", headers={"Origin": KNOWN})
        assert [name for name in reply.headers if name.startswith("Access-Control-") or name == "Vary"] == []
