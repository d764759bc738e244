"""/v2/ itself, tags, the catalogue, referrers."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from registry_driver.manifest_document import OCI_INDEX, OCI_MANIFEST
from tests.registry.client import Client, Reply
from tests.registry.documents import CONFIG_TYPE, descriptor, encoded, image, index, sha256


def following(client: Client, path: str, key: str) -> list[list[Any]]:
    """The lists of all pages from `path` on, by their Link headers."""
    pages = []
    while path:
        reply = client.send("GET", path)
        assert reply.status == 200
        pages.append(reply.json()[key])
        link = reply.headers["Link"]
        path = "" if link is None else next_path(link)
    return pages


def next_path(link: str) -> str:
    found = re.fullmatch(r'<(/v2/[^>]+)>; rel="next"', link)
    assert found is not None, link
    return found[1]


@pytest.mark.parametrize("path", ["/v2/", "/v2"])
def test_the_ping_says_yes(client: Client, path: str) -> None:
    reply = client.send("GET", path)
    assert (reply.status, reply.body) == (200, b"{}")
    assert reply.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
    assert reply.headers["Content-Type"] == "application/json"
    assert client.send("HEAD", path).status == 200


class TestTags:
    TAGS = ("0", "10", "9", "A", "B", "_", "a", "a-b", "a.b", "aa", "latest")  # as bytes sort

    @pytest.fixture
    def tagged(self, client: Client, repository: str) -> str:
        body, digest = client.push_image(repository, "latest")
        query = "&".join(f"tag={tag}" for tag in reversed(self.TAGS))
        assert client.put_manifest(repository, f"{digest}?{query}", body).status == 201
        return f"/v2/{repository}/tags/list"

    def test_all_in_order_of_their_bytes(self, client: Client, repository: str, tagged: str) -> None:
        reply = client.send("GET", tagged)
        assert (reply.status, reply.json()) == (200, {"name": repository, "tags": list(self.TAGS)})
        assert reply.headers["Content-Type"] == "application/json"
        assert reply.headers["Link"] is None

    @pytest.mark.parametrize("size", [1, 3, 10, 11, 12])
    def test_pages_follow_each_other(self, client: Client, tagged: str, size: int) -> None:
        pages = following(client, f"{tagged}?n={size}", "tags")
        assert [tag for page in pages for tag in page] == list(self.TAGS)
        assert all(len(page) == size for page in pages[:-1])

    def test_last_means_after(self, client: Client, tagged: str) -> None:
        assert client.send("GET", f"{tagged}?last=a").json()["tags"] == list(self.TAGS[7:])
        assert client.send("GET", f"{tagged}?n=2&last=Aabsent").json()["tags"] == ["B", "_"]
        assert client.send("GET", f"{tagged}?n=2&last=zzz").json()["tags"] == []

    def test_none_asked_for_is_none_given(self, client: Client, tagged: str) -> None:
        reply = client.send("GET", f"{tagged}?n=0")
        assert (reply.status, reply.json()["tags"], reply.headers["Link"]) == (200, [], None)

    @pytest.mark.parametrize(
        "query", ["n=-1", "n=x", "n=1.5", "n=", "n=%D9%A3", "last=%00", "last=%C3%A4", "last=" + "a" * 600]
    )
    def test_bad_numbers_and_names_are_400(self, client: Client, tagged: str, query: str) -> None:
        reply = client.send("GET", f"{tagged}?{query}")
        assert (reply.status, reply.code()) == (400, "UNSUPPORTED")

    def test_more_than_a_page_can_hold_is_no_error(self, client: Client, tagged: str) -> None:
        for many in ("999999999999", "1" + "0" * 30, "9" * 5000):
            assert client.send("GET", f"{tagged}?n={many}").json()["tags"] == list(self.TAGS)
        assert client.send("GET", f"{tagged}?n={'0' * 5000}2").json()["tags"] == list(self.TAGS[:2])

    @pytest.mark.parametrize("query", ["", "?n=0", "?n=5"])
    def test_of_an_unknown_repository_is_404(self, client: Client, repository: str, query: str) -> None:
        reply = client.send("GET", f"/v2/{repository}/tags/list{query}")
        assert (reply.status, reply.code()) == (404, "NAME_UNKNOWN")

    def test_of_a_repository_without_tags_is_empty(self, client: Client, repository: str) -> None:
        client.push(repository, b"x")
        assert client.send("GET", f"/v2/{repository}/tags/list").json() == {"name": repository, "tags": []}


class TestCatalogue:
    def test_pages_follow_each_other(self, client: Client, repository: str) -> None:
        names = sorted(f"{repository}/{part}" for part in ("a", "b", "c-d", "c/d"))
        for name in names:
            client.push(name, b"x")
        pages = following(client, "/v2/_catalog?n=3", "repositories")
        everything = [name for page in pages for name in page]
        assert everything == sorted(everything)
        assert [name for name in everything if name.startswith(repository)] == names
        assert all(len(page) == 3 for page in pages[:-1])
        assert set(names) <= set(client.send("GET", "/v2/_catalog").json()["repositories"])

    def test_none_asked_for_is_none_given(self, client: Client) -> None:
        assert client.send("GET", "/v2/_catalog?n=0").json() == {"repositories": []}


class TestReferrers:
    def get(self, client: Client, repository: str, digest: str, query: str = "") -> Reply:
        reply = client.send("GET", f"/v2/{repository}/referrers/{digest}{query}")
        assert reply.status == 200
        assert reply.headers["Content-Type"] == OCI_INDEX
        told = reply.json()
        assert (told["schemaVersion"], told["mediaType"]) == (2, OCI_INDEX)
        return reply

    def test_those_that_refer_are_described(self, client: Client, repository: str) -> None:
        subject, digest = client.push_image(repository, "v1")
        told = descriptor(subject, OCI_MANIFEST)
        client.push(repository, b"{}")
        sbom = encoded(image(b"{}", artifactType="a/sbom", subject=told, annotations={"by": "me"}))
        plain = encoded(image(b"{}", subject=told))
        listing = encoded(index(subject=told, annotations={"kind": "list"}))
        for body in (sbom, plain, listing):
            assert client.put_manifest(repository, sha256(body), body).status == 201
        found = {entry["digest"]: entry for entry in self.get(client, repository, digest).json()["manifests"]}
        assert found == {
            sha256(sbom): descriptor(sbom, OCI_MANIFEST) | {"artifactType": "a/sbom", "annotations": {"by": "me"}},
            sha256(plain): descriptor(plain, OCI_MANIFEST) | {"artifactType": CONFIG_TYPE},
            sha256(listing): descriptor(listing, OCI_INDEX) | {"annotations": {"kind": "list"}},
        }
        only = self.get(client, repository, digest, "?artifactType=a/sbom")
        assert only.headers["OCI-Filters-Applied"] == "artifactType"
        assert [entry["digest"] for entry in only.json()["manifests"]] == [sha256(sbom)]
        client.send("DELETE", f"/v2/{repository}/manifests/{sha256(sbom)}")
        assert self.get(client, repository, digest, "?artifactType=a/sbom").json()["manifests"] == []

    @pytest.mark.parametrize("digest", ["sha256:" + "0" * 64, "sha512:" + "0" * 128, "blake3:abc"])
    def test_nobody_refers_to_the_unknown(self, client: Client, repository: str, digest: str) -> None:
        reply = self.get(client, repository, digest)
        assert reply.json()["manifests"] == []
        assert reply.headers["OCI-Filters-Applied"] is None

    @pytest.mark.parametrize("kind", ["x/absent", "%00", "%ff", "no-type"])
    def test_nobody_is_of_an_unknown_type(self, client: Client, repository: str, kind: str) -> None:
        reply = self.get(client, repository, "sha256:" + "0" * 64, f"?artifactType={kind}")
        assert reply.headers["OCI-Filters-Applied"] == "artifactType"

    def test_of_parameters_that_mean_nothing_here_nothing_is_asked(self, client: Client, repository: str) -> None:
        self.get(client, repository, "sha256:" + "0" * 64, "?n=-1&x")

    def test_types_are_found_as_they_were_pushed(self, client: Client, repository: str) -> None:
        client.push(repository, b"{}")
        subject = descriptor(b"subject", OCI_MANIFEST)
        for kind, asked in (
            ("a/b+json", "a/b+json"),
            ("a/c+json", "a%2Fc%2Bjson"),
            ("text/x; charset=utf-8", "text/x;%20charset=utf-8"),
            ("text/y; charset=utf-8", "text/y;+charset=utf-8"),
            ("word", "word"),
        ):
            body = encoded(image(b"{}", artifactType=kind, subject=subject))
            assert client.put_manifest(repository, sha256(body), body).status == 201
            found = self.get(client, repository, sha256(b"subject"), f"?artifactType={asked}").json()["manifests"]
            assert [(entry["digest"], entry["artifactType"]) for entry in found] == [(sha256(body), kind)]

    def test_a_page_takes_no_more_bytes_than_the_manifests_took(self, client: Client, repository: str) -> None:
        """Escaped, these annotations would take twelve million bytes; clients take four."""
        client.push(repository, b"{}")
        notes = {"note": "\N{GRINNING FACE}" * 1_000_000}
        body = json.dumps(
            image(b"{}", subject=descriptor(b"subject", OCI_MANIFEST), annotations=notes), ensure_ascii=False
        ).encode()
        assert client.put_manifest(repository, "v1", body).status == 201
        reply = self.get(client, repository, sha256(b"subject"))
        assert reply.json()["manifests"][0]["annotations"] == notes
        assert len(reply.body) <= len(body)

    @pytest.mark.parametrize("digest", ["latest", "sha256:x", "sha256:" + "A" * 64, "%00", "a:b:c"])
    def test_a_malformed_digest_is_400(self, client: Client, repository: str, digest: str) -> None:
        reply = client.send("GET", f"/v2/{repository}/referrers/{digest}")
        assert (reply.status, reply.code()) == (400, "DIGEST_INVALID")

    def test_large_annotations_make_several_pages(self, client: Client, repository: str) -> None:
        client.push(repository, b"{}")
        told = descriptor(b"subject", OCI_MANIFEST)
        pushed = set()
        for number in range(5):
            notes = {"number": str(number), "large": "x" * 1_500_000}
            body = encoded(image(b"{}", subject=told, annotations=notes))
            assert client.put_manifest(repository, sha256(body), body).status == 201
            pushed.add(sha256(body))
        pages = following(
            client, f"/v2/{repository}/referrers/{told['digest']}?artifactType={CONFIG_TYPE}", "manifests"
        )
        assert [len(page) for page in pages] == [2, 2, 1]
        assert {entry["digest"] for page in pages for entry in page} == pushed
