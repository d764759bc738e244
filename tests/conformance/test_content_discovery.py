"""Content discovery: lists of tags and of referrers, named by heading."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest

from registry_driver.manifest_document import OCI_INDEX, OCI_MANIFEST
from tests.conformance.api import ALGORITHMS, Api, digest_of
from tests.registry.client import Reply
from tests.registry.documents import CONFIG_TYPE, descriptor, encoded, index, sha256

TAGS = ["0", "1", "10", "9", "A", "B", "Z", "_", "a", "a-b", "a.b", "a_b", "aa", "latest"]  # as bytes sort
SBOM, SIGNATURE = "application/vnd.example.sbom.v1+json", "application/vnd.example.signature.v1"


def next_page(reply: Reply) -> str | None:
    link = reply.headers["Link"]
    if link is None:
        return None
    found = re.fullmatch(r'<([^>]+)>; rel="next"', link)
    assert found is not None, link
    return found[1]


@pytest.fixture
def listed(api: Api, repository: str) -> str:
    """Path of the list of a repository with TAGS."""
    body = encoded(api.config(repository))
    query = "&".join(f"tag={tag}" for tag in reversed(TAGS))
    assert api.put_manifest(repository, f"{sha256(body)}?{query}", body).status == 201
    return f"/v2/{repository}/tags/list"


def test_listing_tags_is_200_with_name_and_tags_in_the_order_of_bytes(api: Api, repository: str, listed: str) -> None:
    reply = api.send("GET", listed)
    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
    assert reply.json() == {"name": repository, "tags": TAGS}
    assert reply.headers["Link"] is None


def test_listing_tags_of_a_repository_without_tags_is_empty(api: Api, repository: str) -> None:
    api.push_document(repository, api.config(repository))
    reply = api.send("GET", f"/v2/{repository}/tags/list")
    assert (reply.status, reply.json()) == (200, {"name": repository, "tags": []})


@pytest.mark.parametrize("n", [1, 2, len(TAGS) - 1, len(TAGS), len(TAGS) + 1, 10**9])
def test_listing_tags_gives_as_many_as_asked_for_from_the_start(api: Api, listed: str, n: int) -> None:
    reply = api.send("GET", f"{listed}?n={n}")
    assert reply.json()["tags"] == TAGS[:n]
    assert (next_page(reply) is not None) == (n < len(TAGS))


@pytest.mark.parametrize("n", [1, 3, 7])
def test_listing_tags_links_to_the_next_page(api: Api, listed: str, n: int) -> None:
    found: list[str] = []
    path: str | None = f"{listed}?n={n}"
    while path is not None:
        reply = api.send("GET", path)
        found += reply.json()["tags"]
        path = next_page(reply)
    assert found == TAGS


def test_listing_tags_with_n_zero_is_an_empty_list_without_link(api: Api, repository: str, listed: str) -> None:
    reply = api.send("GET", f"{listed}?n=0")
    assert (reply.status, reply.json(), reply.headers["Link"]) == (200, {"name": repository, "tags": []}, None)


@pytest.mark.parametrize("last", ["0", "1", "9", "B", "absent", "a-", "latest", "zzz"])
def test_listing_tags_after_last_which_is_a_tag_and_no_number(api: Api, listed: str, last: str) -> None:
    after = [tag for tag in TAGS if tag > last]
    assert api.send("GET", f"{listed}?last={last}").json()["tags"] == after
    assert api.send("GET", f"{listed}?n=2&last={last}").json()["tags"] == after[:2]


@pytest.fixture
def subject(api: Api, repository: str) -> bytes:
    """The bytes of a manifest that is there."""
    body = encoded(api.config(repository))
    assert api.put_manifest(repository, "subject", body).status == 201
    return body


def referrers(api: Api, repository: str, digest: str, query: str = "") -> tuple[Reply, list[dict[str, Any]]]:
    reply = api.send("GET", f"/v2/{repository}/referrers/{digest}{query}")
    assert (reply.status, reply.headers["Content-Type"]) == (200, OCI_INDEX)
    told = reply.json()
    assert (told["schemaVersion"], told["mediaType"]) == (2, OCI_INDEX)
    return reply, told["manifests"]


@pytest.mark.parametrize("name", ["", "/absent"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_listing_referrers_is_200_and_empty_where_nobody_refers(
    api: Api, repository: str, subject: bytes, name: str, algorithm: str
) -> None:
    for content in (subject, b"absent"):
        _, found = referrers(api, repository + name, digest_of(content, algorithm))
        assert found == []


@pytest.mark.parametrize("digest", ["subject", "sha256:", "sha256:x", "sha256:" + "A" * 64, "sha512:" + "a" * 64, ":"])
def test_listing_referrers_of_a_malformed_digest_is_400(api: Api, repository: str, digest: str) -> None:
    reply = api.send("GET", f"/v2/{repository}/referrers/{digest}")
    assert (reply.status, reply.code()) == (400, "DIGEST_INVALID")


NOTES: Mapping[str, str] = {"org.example.a": "1", "org.example.ä": "ü \U0001f600"}


@pytest.mark.parametrize(
    ("extra", "listed_as"),
    [
        ({"artifactType": SBOM}, {"artifactType": SBOM}),
        ({"artifactType": SBOM, "annotations": NOTES}, {"artifactType": SBOM, "annotations": NOTES}),
        ({}, {"artifactType": CONFIG_TYPE}),
        ({"artifactType": ""}, {"artifactType": CONFIG_TYPE}),
    ],
)
def test_listing_referrers_describes_images(
    api: Api, repository: str, subject: bytes, extra: dict[str, Any], listed_as: dict[str, Any]
) -> None:
    document, _ = api.referring(repository, subject, OCI_MANIFEST, **extra)
    _, found = referrers(api, repository, sha256(subject))
    assert found == [descriptor(encoded(document), OCI_MANIFEST) | listed_as]


@pytest.mark.parametrize(
    ("extra", "listed_as"),
    [
        ({"artifactType": SBOM, "annotations": NOTES}, {"artifactType": SBOM, "annotations": NOTES}),
        ({}, {}),
        ({"artifactType": ""}, {}),
    ],
)
def test_listing_referrers_describes_indexes(
    api: Api, repository: str, subject: bytes, extra: dict[str, Any], listed_as: dict[str, Any]
) -> None:
    document = index(subject=descriptor(subject, OCI_MANIFEST), **extra)
    api.push_document(repository, document)
    _, found = referrers(api, repository, sha256(subject))
    assert found == [descriptor(encoded(document), OCI_INDEX) | listed_as]


def test_listing_referrers_knows_no_other_repository(api: Api, repository: str, subject: bytes) -> None:
    api.referring(f"{repository}/other", subject, OCI_MANIFEST)
    assert referrers(api, repository, sha256(subject))[1] == []


def test_listing_referrers_links_to_what_does_not_fit(api: Api, repository: str, subject: bytes) -> None:
    pushed = {
        api.referring(repository, subject, OCI_MANIFEST, annotations={"large": str(number) * 1_500_000})[1]
        for number in range(3)
    }
    found: list[str] = []
    pages = 0
    query: str | None = ""
    while query is not None:
        reply, entries = referrers(api, repository, sha256(subject), query)
        found += [entry["digest"] for entry in entries]
        pages += 1
        link = next_page(reply)
        query = None if link is None else "?" + link.partition("?")[2]
    assert pages > 1
    assert (set(found), len(found)) == (pushed, 3)


def test_listing_referrers_filters_by_artifact_type_and_says_so(api: Api, repository: str, subject: bytes) -> None:
    _, sbom = api.referring(repository, subject, OCI_MANIFEST, artifactType=SBOM)
    _, signature = api.referring(repository, subject, OCI_MANIFEST, artifactType=SIGNATURE)
    _, plain = api.referring(repository, subject, OCI_MANIFEST)
    for kind, digest in ((SBOM, sbom), (SBOM.replace("+", "%2B"), sbom), (SIGNATURE, signature), (CONFIG_TYPE, plain)):
        reply, found = referrers(api, repository, sha256(subject), f"?artifactType={kind}")
        assert [entry["digest"] for entry in found] == [digest]
        assert reply.headers["OCI-Filters-Applied"] == "artifactType"
    reply, found = referrers(api, repository, sha256(subject), "?artifactType=a/absent")
    assert (found, reply.headers["OCI-Filters-Applied"]) == ([], "artifactType")
    reply, found = referrers(api, repository, sha256(subject), "?unknown=filter")
    assert ({entry["digest"] for entry in found}, reply.headers["OCI-Filters-Applied"]) == (
        {sbom, signature, plain},
        None,
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_enabling_the_referrers_api_lists_what_is_pushed_at_once(api: Api, repository: str, algorithm: str) -> None:
    digest = digest_of(b"subject", algorithm)
    told = descriptor(b"subject", OCI_MANIFEST) | {"digest": digest}
    pushed = set()
    for document in (api.config(repository) | {"subject": told}, index(subject=told)):
        pushed.add(api.push_document(repository, document))
        for _ in range(api.fronts):
            assert {entry["digest"] for entry in referrers(api, repository, digest)[1]} == pushed
