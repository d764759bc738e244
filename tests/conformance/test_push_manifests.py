"""Pushing manifests: references, bytes, tags, sizes and subjects, named by heading."""

from __future__ import annotations

import json
from typing import Any

import pytest

from registry_driver.manifest_document import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from tests.conformance.api import ALGORITHMS, Api, blob_path, digest_of, manifest_path
from tests.registry.documents import CONFIG_TYPE, LAYER_TYPE, descriptor, encoded, image, index, sha256


def padded(document: dict[str, Any], size: int) -> bytes:
    """The document's bytes, `size` of them."""
    body = encoded(document | {"annotations": {"padding": ""}})
    return body.replace(b'"padding": ""', b'"padding": "' + b"x" * (size - len(body)) + b'"')


@pytest.mark.parametrize("kind", [OCI_MANIFEST, OCI_INDEX])
def test_push_takes_a_subject_that_comes_later(api: Api, repository: str, kind: str) -> None:
    subject = encoded(api.config(repository) if kind == OCI_MANIFEST else index())
    _, referring = api.referring(repository, subject, kind)
    assert api.send("GET", manifest_path(repository, sha256(subject))).status == 404
    assert api.put_manifest(repository, "later", subject).status == 201
    listed = api.send("GET", f"/v2/{repository}/referrers/{sha256(subject)}").json()["manifests"]
    assert [entry["digest"] for entry in listed] == [referring]


def test_push_names_each_blob_or_manifest_that_a_refused_manifest_lacks(api: Api, repository: str) -> None:
    whole = api.config(repository)
    absent = [f"absent {number}".encode() for number in range(3)]
    documents = [
        image(absent[0]),
        whole | {"layers": [descriptor(content, LAYER_TYPE) for content in absent]},
        index(encoded(whole), *absent[:2]),
    ]
    for document, missing in zip(documents, (absent[:1], absent, [encoded(whole), *absent[:2]]), strict=True):
        body = encoded(document)
        reply = api.put_manifest(repository, "v1", body)
        assert reply.status == 400
        told = [(error["code"], error["detail"]["digest"]) for error in reply.json()["errors"]]
        assert sorted(told) == sorted(("MANIFEST_BLOB_UNKNOWN", sha256(content)) for content in missing)
        assert api.statuses("GET", manifest_path(repository, "v1")) == {404}
        assert api.statuses("GET", manifest_path(repository, sha256(body))) == {404}


@pytest.mark.parametrize("kind", [OCI_MANIFEST, DOCKER_MANIFEST])
def test_pushing_manifests_ignores_parameters_of_the_type(api: Api, repository: str, kind: str) -> None:
    body = encoded(api.config(repository) | {"mediaType": kind})
    assert api.put_manifest(repository, "v1", body, f"{kind}; charset=utf-8").status == 201
    assert api.send("HEAD", manifest_path(repository, "v1")).headers["Content-Type"] == kind


@pytest.mark.parametrize("kind", [OCI_MANIFEST, OCI_INDEX])
def test_pushing_manifests_needs_no_media_type_inside(api: Api, repository: str, kind: str) -> None:
    document = api.config(repository) if kind == OCI_MANIFEST else index()
    del document["mediaType"]
    assert api.put_manifest(repository, "v1", encoded(document), kind).status == 201
    assert api.send("HEAD", manifest_path(repository, "v1")).headers["Content-Type"] == kind


def test_pushing_manifests_refuses_a_type_that_is_not_the_one_inside(api: Api, repository: str) -> None:
    body = encoded(api.config(repository))
    for other in (DOCKER_MANIFEST, OCI_INDEX, DOCKER_LIST):
        assert api.put_manifest(repository, "v1", body, other).code() == "MANIFEST_INVALID"
    assert api.statuses("GET", manifest_path(repository, "v1")) == {404}


def test_pushing_manifests_without_layers_or_children(api: Api, repository: str) -> None:
    api.push_document(repository, api.config(repository) | {"layers": []}, "image")
    api.push_document(repository, index(), "index")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_pushing_manifests_keeps_every_byte(api: Api, repository: str, algorithm: str) -> None:
    document = api.config(repository) | {"custom": ["ä", 1e9, {"b": None, "a": 1}]}
    spaced = json.dumps(document, indent="\t", ensure_ascii=False).replace("\n", "\r\n") + "\n \n"
    for body in (spaced.encode(), encoded(document).replace(b": ", b" :  ")):
        digest = digest_of(body, algorithm)
        reply = api.put_manifest(repository, f"{digest}?tag=v1", body)
        assert (reply.status, reply.headers["Docker-Content-Digest"]) == (201, digest)
        for reference in ("v1", digest):
            assert api.send("GET", manifest_path(repository, reference)).body == body


def test_pushing_manifests_ends_with_201_and_a_location_to_pull_from(api: Api, repository: str) -> None:
    body = encoded(api.config(repository))
    for reference in ("v1", sha256(body), digest_of(body, "sha512")):
        reply = api.put_manifest(repository, reference, body)
        assert reply.status == 201
        expected = reference if ":" in reference else sha256(body)
        assert reply.headers["Docker-Content-Digest"] == expected
        assert api.send("GET", reply.location).body == body


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("count", [1, 10, 64])
def test_pushing_manifests_with_several_tags(api: Api, repository: str, algorithm: str, count: int) -> None:
    body = encoded(api.config(repository))
    tags = [f"v1.{number}" for number in range(count)]
    query = "&".join(f"tag={tag}" for tag in tags)
    reply = api.put_manifest(repository, f"{digest_of(body, algorithm)}?{query}", body)
    assert reply.status == 201
    told = [tag.strip() for line in reply.headers.get_all("OCI-Tag") or [] for tag in line.split(",")]
    assert told == tags
    for tag in (tags[0], tags[-1]):
        assert api.send("GET", manifest_path(repository, tag)).body == body
    assert api.send("GET", f"/v2/{repository}/tags/list").json()["tags"] == sorted(tags)


def test_pushing_manifests_with_too_many_tags_is_414_and_makes_none(api: Api, repository: str) -> None:
    body = encoded(api.config(repository))
    query = "&".join(f"tag=v{number}" for number in range(65))
    assert api.put_manifest(repository, f"{sha256(body)}?{query}", body).status == 414
    assert api.statuses("GET", manifest_path(repository, "v0")) == {404}
    assert api.statuses("GET", manifest_path(repository, sha256(body))) == {404}


def test_pushing_manifests_comes_before_pulling_from_a_repository(api: Api, repository: str) -> None:
    for path in (
        manifest_path(repository, "v1"),
        manifest_path(repository, sha256(b"?")),
        blob_path(repository, sha256(b"?")),
        f"/v2/{repository}/tags/list",
    ):
        assert api.send("GET", path).status == 404


@pytest.mark.parametrize("size", [4_000_000, 4 * 1024 * 1024])
def test_pushing_manifests_of_four_megabytes(api: Api, repository: str, size: int) -> None:
    body = padded(api.config(repository), size)
    assert len(body) == size
    assert api.put_manifest(repository, "v1", body).status == 201
    assert api.send("GET", manifest_path(repository, "v1")).body == body


def test_pushing_manifests_above_the_limit_is_413(api: Api, repository: str) -> None:
    body = padded(api.config(repository), 4 * 1024 * 1024 + 1)
    reply = api.put_manifest(repository, "v1", body)
    assert (reply.status, reply.code()) == (413, "SIZE_INVALID")
    streamed = api.send("PUT", manifest_path(repository, "v1"), iter([body]), {"Content-Type": OCI_MANIFEST})
    assert streamed.status == 413
    assert api.statuses("GET", manifest_path(repository, "v1")) == {404}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("there", [True, False])
def test_pushing_manifests_with_subject_is_told(api: Api, repository: str, algorithm: str, there: bool) -> None:
    subject = encoded(api.config(repository))
    digest = digest_of(subject, algorithm)
    if there:
        assert api.put_manifest(repository, digest, subject).status == 201
    told = descriptor(subject, OCI_MANIFEST) | {"digest": digest}
    for document in (api.config(repository) | {"subject": told}, index(subject=told)):
        body = encoded(document)
        for reference in ("tagged", sha256(body)):
            assert api.put_manifest(repository, reference, body).headers["OCI-Subject"] == digest
    assert api.put_manifest(repository, "plain", encoded(api.config(repository))).headers["OCI-Subject"] is None


def test_referrers_tag_schema_is_kept_by_conditional_pushes(api: Api, repository: str) -> None:
    tag = "sha256-" + "a" * 64
    lists = [encoded(index(annotations={"n": str(n)})) for n in range(3)]
    headers = {"Content-Type": OCI_INDEX}
    path = manifest_path(repository, tag)
    assert api.send("PUT", path, lists[0], headers | {"If-None-Match": "*"}).status == 201
    assert api.send("PUT", path, lists[1], headers | {"If-None-Match": "*"}).status == 412
    etag = str(api.send("GET", path).headers["ETag"])
    assert api.send("PUT", path, lists[1], headers | {"If-Match": etag}).status == 201
    assert api.send("PUT", path, lists[2], headers | {"If-Match": etag}).status == 412
    assert api.send("GET", path).body == lists[1]


def test_referrers_tag_schema_is_a_tag_like_others(api: Api, repository: str) -> None:
    subject = encoded(api.config(repository))
    referring, digest = api.referring(repository, subject, OCI_MANIFEST)
    entry = descriptor(encoded(referring), OCI_MANIFEST) | {"artifactType": CONFIG_TYPE}
    for algorithm in ALGORITHMS:
        tag = digest_of(subject, algorithm).replace(":", "-")[: len(algorithm) + 1 + 64]
        api.push_document(repository, index(manifests=[entry]), tag)
        assert api.send("GET", manifest_path(repository, tag)).json()["manifests"] == [entry]
    listed = api.send("GET", f"/v2/{repository}/referrers/{sha256(subject)}").json()["manifests"]
    assert [entry["digest"] for entry in listed] == [digest]
