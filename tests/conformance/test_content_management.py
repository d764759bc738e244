"""Content management: what is deleted is gone at once through every front end, named by heading."""

from __future__ import annotations

import os

import pytest

from registry_driver.manifest_document import OCI_MANIFEST
from tests.conformance.api import ALGORITHMS, Api, blob_path, digest_of, manifest_path
from tests.registry.documents import encoded, sha256


def read_everywhere(api: Api, path: str) -> None:
    """So that whatever keeps things has this one."""
    for method in ("GET", "HEAD"):
        assert api.statuses(method, path) == {200}


def gone(api: Api, path: str) -> bool:
    return api.statuses("GET", path) == api.statuses("HEAD", path) == {404}


def test_deleting_tags_is_202_and_leaves_the_manifest(api: Api, repository: str) -> None:
    body = encoded(api.config(repository))
    assert api.put_manifest(repository, f"{sha256(body)}?tag=v1&tag=v2", body).status == 201
    read_everywhere(api, manifest_path(repository, "v1"))
    assert api.send("DELETE", manifest_path(repository, "v1")).status == 202
    assert gone(api, manifest_path(repository, "v1"))
    for reference in ("v2", sha256(body)):
        assert api.statuses("GET", manifest_path(repository, reference)) == {200}
    assert api.send("GET", f"/v2/{repository}/tags/list").json()["tags"] == ["v2"]
    assert api.send("DELETE", manifest_path(repository, "v1")).status == 404


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_deleting_manifests_is_202_and_takes_the_tags_along(api: Api, repository: str, algorithm: str) -> None:
    body = encoded(api.config(repository))
    digest = digest_of(body, algorithm)
    assert api.put_manifest(repository, f"{digest}?tag=v1&tag=v2", body).status == 201
    for reference in ("v1", "v2", digest):
        read_everywhere(api, manifest_path(repository, reference))
    assert api.send("DELETE", manifest_path(repository, digest)).status == 202
    for reference in ("v1", "v2", digest):
        assert gone(api, manifest_path(repository, reference))
    assert api.send("GET", f"/v2/{repository}/tags/list").json()["tags"] == []
    assert api.put_manifest(repository, "v1", body).status == 201
    assert api.statuses("GET", manifest_path(repository, "v1")) == {200}


def test_deleting_manifests_of_an_unknown_repository_is_404(api: Api, repository: str) -> None:
    for reference in ("v1", sha256(b"?"), digest_of(b"?", "sha512")):
        assert api.send("DELETE", manifest_path(repository, reference)).status == 404


def test_deleting_manifests_ends_their_being_referrers(api: Api, repository: str) -> None:
    subject = encoded(api.config(repository))
    _, digest = api.referring(repository, subject, OCI_MANIFEST)
    path = f"/v2/{repository}/referrers/{sha256(subject)}"
    assert len(api.send("GET", path).json()["manifests"]) == 1
    assert api.send("DELETE", manifest_path(repository, digest)).status == 202
    for _ in range(api.fronts):
        assert api.send("GET", path).json()["manifests"] == []


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_deleting_blobs_is_202_and_they_are_gone(api: Api, repository: str, algorithm: str) -> None:
    content = os.urandom(200_000)
    digest = digest_of(content, algorithm)
    push = f"/v2/{repository}/blobs/uploads/?digest={digest}"
    assert api.send("POST", push, content).status == 201
    read_everywhere(api, blob_path(repository, digest))
    assert api.send("DELETE", blob_path(repository, digest)).status == 202
    assert gone(api, blob_path(repository, digest))
    assert api.send("DELETE", blob_path(repository, digest)).status == 404
    assert api.send("POST", push, content).status == 201
    assert api.blob_is(repository, content, algorithm)


def test_deleting_blobs_that_are_not_there_is_404(api: Api, repository: str) -> None:
    digest = api.push(repository, b"content")
    for path in (blob_path(repository, sha256(b"?")), blob_path(f"{repository}/other", digest)):
        reply = api.send("DELETE", path)
        assert (reply.status, reply.code()) == (404, "BLOB_UNKNOWN")
    assert api.statuses("HEAD", blob_path(repository, digest)) == {200}
