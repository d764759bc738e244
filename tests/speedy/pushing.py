"""Pushing and pulling with plain requests; several front ends take turns where several are given."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from urllib.parse import urljoin

import requests

TIMEOUT_S = 60.0
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Pusher:
    """Each request goes to the next of `urls`. Connections are not kept: whoever is restarted meanwhile is met anew."""

    def __init__(self, *urls: str, headers: dict[str, str] | None = None) -> None:
        self._urls: Iterator[str] = itertools.cycle(urls)
        self._headers = headers or {}

    def send(
        self, method: str, path: str, data: bytes | Iterator[bytes] | None = None, **headers: str
    ) -> requests.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return requests.request(
            method,
            urljoin(next(self._urls), path),
            data=data,
            headers={**self._headers, **named},
            timeout=TIMEOUT_S,
            allow_redirects=False,
        )

    def push_blob(self, repository: str, data: bytes, *, pieces: int = 1) -> str:
        """POST, `pieces` PATCHes, PUT; the digest. Raises AssertionError for any other answer than success."""
        location = expect(self.send("POST", f"/v2/{repository}/blobs/uploads/"), 202).headers["Location"]
        size = -(-len(data) // pieces)
        for start in range(0, len(data), max(size, 1)):
            part = data[start : start + size]
            location = expect(self.send("PATCH", location, iter([part])), 202).headers["Location"]
        digest = digest_of(data)
        expect(self.send("PUT", f"{location}{'&' if '?' in location else '?'}digest={digest}"), 201)
        return digest

    def push_image(self, repository: str, tag: str, layers: Sequence[bytes], *, pieces: int = 1) -> str:
        """Layers, a config and a manifest; the manifest's digest."""
        config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}})
        blobs = [(_LAYER_TYPE, layer, self.push_blob(repository, layer, pieces=pieces)) for layer in layers]
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {
                "mediaType": _CONFIG_TYPE,
                "size": len(config),
                "digest": self.push_blob(repository, config.encode()),
            },
            "layers": [{"mediaType": kind, "size": len(data), "digest": digest} for kind, data, digest in blobs],
        }
        return self.push_manifest(repository, tag, json.dumps(manifest).encode())

    def push_manifest(self, repository: str, reference: str, manifest: bytes) -> str:
        answer = self.send("PUT", f"/v2/{repository}/manifests/{reference}", manifest, Content_Type=MANIFEST_TYPE)
        expect(answer, 201)
        return digest_of(manifest)

    def pull_blob(self, repository: str, digest: str) -> bytes:
        answer = expect(self.send("GET", f"/v2/{repository}/blobs/{digest}"), 200)
        assert digest_of(answer.content) == digest
        return answer.content

    def pull_image(self, repository: str, reference: str) -> str:
        """Manifest, config and layers, each held to its digest; the manifest's digest."""
        answer = expect(self.send("GET", f"/v2/{repository}/manifests/{reference}", Accept=MANIFEST_TYPE), 200)
        manifest = json.loads(answer.content)
        for part in (manifest["config"], *manifest["layers"]):
            assert len(self.pull_blob(repository, part["digest"])) == part["size"]
        return digest_of(answer.content)


def expect(answer: requests.Response, status: int) -> requests.Response:
    assert answer.status_code == status, (
        f"{answer.request.method} {answer.url}: {answer.status_code} {answer.text[:500]}"
    )
    return answer
