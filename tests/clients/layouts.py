"""OCI layouts written piece by piece: content that no image builder of the tests' clients makes.

    layout = Layout(directory)
    config = layout.add(b"{}", "application/vnd.oci.empty.v1+json")
    top = layout.add_manifest(config, [layout.add(b"...", "text/plain")])
    layout.tag("latest", top)         # skopeo copy oci:directory:latest, ctr images import (as a tar), umoci

A descriptor is the dictionary that documents hold: mediaType, digest, size, and what else belongs there.
"""

import gzip
import hashlib
import io
import json
import random
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.clients.images import INDEX_TYPE, MANIFEST_TYPE
from tests.needs import program

Descriptor = dict[str, Any]

CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
GZIP_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
ZSTD_TYPE = "application/vnd.oci.image.layer.v1.tar+zstd"
FOREIGN_TYPE = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
DOCKER_MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST_TYPE = "application/vnd.docker.distribution.manifest.list.v2+json"


class Layout:
    """An OCI image layout in a directory that does not exist yet."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._blobs = directory / "blobs" / "sha256"
        self._blobs.mkdir(parents=True)
        self._top: list[Descriptor] = []
        (directory / "oci-layout").write_bytes(document({"imageLayoutVersion": "1.0.0"}))

    def add(self, content: bytes, media_type: str, **more: Any) -> Descriptor:
        """Store a blob; its descriptor, with the further fields that are given."""
        name = hashlib.sha256(content).hexdigest()
        (self._blobs / name).write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{name}", "size": len(content)} | more

    def add_manifest(self, config: Descriptor, layers: Sequence[Descriptor], **more: Any) -> Descriptor:
        fields = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": list(layers)}
        return self.add(document(fields | more), MANIFEST_TYPE)

    def add_image(self, layers: Sequence[tuple[Descriptor, str]], architecture: str = "amd64") -> Descriptor:
        """A runnable image of layers, each with the digest of its unpacked tar; described with its platform."""
        config = {
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": ["/data/file"]},
            "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in layers]},
        }
        described = self.add_manifest(self.add(document(config), CONFIG_TYPE), [layer for layer, _ in layers])
        return described | {"platform": {"architecture": architecture, "os": "linux"}}

    def add_index(self, children: Sequence[Descriptor], **more: Any) -> Descriptor:
        fields = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": list(children)}
        return self.add(document(fields | more), INDEX_TYPE)

    def tag(self, name: str, described: Descriptor) -> None:
        top = described | {"annotations": {"org.opencontainers.image.ref.name": name}}
        self._top.append(top)
        (self.directory / "index.json").write_bytes(document({"schemaVersion": 2, "manifests": self._top}))

    def read(self, digest: str) -> bytes:
        return (self._blobs / digest.removeprefix("sha256:")).read_bytes()

    def archive(self) -> Path:
        """The layout as a tar (oci-archive), beside its directory."""
        path = self.directory.with_suffix(".tar")
        with tarfile.open(path, "w") as archive:
            for part in ("oci-layout", "index.json", "blobs"):
                archive.add(self.directory / part, arcname=part)
        return path


def layer_tar(size: int, seed: int, name: str = "data/file") -> bytes:
    """An uncompressed layer with one file of random bytes, or none at all when size is 0."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        if size:
            member = tarfile.TarInfo(name)
            member.size = size
            member.mode = 0o755
            archive.addfile(member, io.BytesIO(random.Random(seed).randbytes(size)))
    return out.getvalue()


def gzipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def zstd(content: bytes) -> bytes:
    return subprocess.run([program("zstd"), "-qc"], input=content, capture_output=True, check=True, timeout=60).stdout


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def document(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":"), sort_keys=True).encode()
