"""Container images made here, byte for byte: no base image can be fetched, and layers must have the sizes that matter.

    image = build_image(directory, "many-layers", layer_sizes=[10_000] * 40, seed=7)
    image.archive     # a tar that `docker load`, `podman load` and `skopeo copy docker-archive:` take
    index = build_index(directory, "both", [image_for_amd64, image_for_arm64])
    index.layout      # an OCI image layout with an index over both: `skopeo copy --all oci:`

Layers hold random bytes from a seed, which no compression makes smaller: a layer of 500 MiB stays one on the wire.
"""

import hashlib
import io
import json
import random
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PIECE_BYTES = 1 << 20
_CREATED = "2024-01-01T00:00:00Z"

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True, slots=True)
class Layer:
    """An uncompressed layer: a tar file, and its SHA-256."""

    path: Path
    digest: str
    length: int


@dataclass(frozen=True, slots=True)
class Image:
    """One image of one platform. `image_id` is what docker and podman call it: the digest of its configuration."""

    name: str
    architecture: str
    config: bytes
    layers: tuple[Layer, ...]
    archive: Path

    @property
    def image_id(self) -> str:
        return _sha256(self.config)


@dataclass(frozen=True, slots=True)
class Index:
    """Several images under one name, one per platform. `digest` is that of the index document itself."""

    images: tuple[Image, ...]
    layout: Path
    document: bytes

    @property
    def digest(self) -> str:
        return _sha256(self.document)


def build_image(
    directory: Path, name: str, *, layer_sizes: Sequence[int], seed: int, architecture: str = "amd64"
) -> Image:
    """Write an image whose layers hold one file each, of the given sizes in bytes."""
    layers = tuple(
        _write_layer(directory / f"{name}-{number}.tar", f"data/{number:03d}", size, seed * 1000 + number)
        for number, size in enumerate(layer_sizes)
    )
    config = _json(
        {
            "architecture": architecture,
            "os": "linux",
            "created": _CREATED,
            "config": {"Cmd": ["/data/000"], "Labels": {"name": name}},
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
            "history": [{"created": _CREATED, "created_by": f"layer {layer.path.stem}"} for layer in layers],
        }
    )
    archive = directory / f"{name}.docker.tar"
    _write_archive(archive, name, config, layers)
    return Image(name, architecture, config, layers, archive)


def build_index(directory: Path, name: str, images: Sequence[Image]) -> Index:
    """Write an OCI layout (tag `latest`) holding an index over the images, which differ in architecture."""
    layout = directory / f"{name}.oci"
    (layout / "blobs" / "sha256").mkdir(parents=True)
    entries = []
    for image in images:
        manifest = _json(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": _descriptor(_CONFIG_TYPE, image.image_id, len(image.config)),
                "layers": [_descriptor(_LAYER_TYPE, layer.digest, layer.length) for layer in image.layers],
            }
        )
        for layer in image.layers:
            _blob_path(layout, layer.digest).hardlink_to(layer.path)
        _blob_path(layout, image.image_id).write_bytes(image.config)
        _blob_path(layout, _sha256(manifest)).write_bytes(manifest)
        platform = {"architecture": image.architecture, "os": "linux"}
        entries.append(_descriptor(MANIFEST_TYPE, _sha256(manifest), len(manifest)) | {"platform": platform})
    document = _json({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries})
    _blob_path(layout, _sha256(document)).write_bytes(document)
    top = _descriptor(INDEX_TYPE, _sha256(document), len(document))
    top["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (layout / "index.json").write_bytes(_json({"schemaVersion": 2, "manifests": [top]}))
    (layout / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))
    return Index(tuple(images), layout, document)


def layout_blobs(layout: Path) -> set[str]:
    """Digests of all blobs in an OCI layout, each computed again from its bytes."""
    return {_file_sha256(path) for path in (layout / "blobs" / "sha256").iterdir()}


def _write_layer(path: Path, member: str, size: int, seed: int) -> Layer:
    """A tar with one file of `size` random bytes, written piece by piece: it may be larger than memory."""
    randomness = random.Random(seed)
    digest = hashlib.sha256()
    length = 0
    with path.open("wb") as out:

        def write(piece: bytes) -> None:
            nonlocal length
            out.write(piece)
            digest.update(piece)
            length += len(piece)

        header = tarfile.TarInfo(member)
        header.size = size
        header.mode = 0o755
        write(header.tobuf(tarfile.USTAR_FORMAT))
        for start in range(0, size, _PIECE_BYTES):
            write(randomness.randbytes(min(_PIECE_BYTES, size - start)))
        write(bytes(-size % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE))
    return Layer(path, f"sha256:{digest.hexdigest()}", length)


def _write_archive(path: Path, name: str, config: bytes, layers: Sequence[Layer]) -> None:
    """The form that `docker save` writes: a configuration, the layers, and manifest.json naming them."""
    config_name = f"{_sha256(config).removeprefix('sha256:')}.json"
    manifest = [{"Config": config_name, "RepoTags": [f"{name}:latest"], "Layers": [x.path.name for x in layers]}]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for member, content in ((config_name, config), ("manifest.json", _json(manifest))):
            info = tarfile.TarInfo(member)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for layer in layers:
            archive.add(layer.path, arcname=layer.path.name)


def _blob_path(layout: Path, digest: str) -> Path:
    return layout / "blobs" / "sha256" / digest.removeprefix("sha256:")


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": size}


def _json(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


def _sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
