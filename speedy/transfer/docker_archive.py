"""What `docker save` writes, as something to push: a configuration, layers that are not compressed, manifest.json.

    manifest.json   [{"Config": "<hex>.json", "RepoTags": ["name:tag"], "Layers": ["<hex>/layer.tar", ...]}, ...]

There is no manifest in it of the kind that registries keep: one is made, the same in each run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from speedy.transfer.compression import Compressed, compress, forget, form_of
from speedy.transfer.content import Content, digest_of_content
from speedy.transfer.documents import (
    DOCKER_MANIFEST,
    DOCUMENT_BYTES_MAX,
    OCI_MANIFEST,
    Descriptor,
    Document,
    check_digest,
    digest_of,
    parse_document,
)
from speedy.transfer.errors import Damaged, TransferError
from speedy.transfer.parallel import run_all
from speedy.transfer.patience import Stop
from speedy.transfer.progress import Progress, short
from speedy.transfer.sources import read_members

ManifestForm = Literal["docker", "oci"]
_CONFIG_TYPES: Final[dict[ManifestForm, str]] = {
    "docker": "application/vnd.docker.container.image.v1+json",
    "oci": "application/vnd.oci.image.config.v1+json",
}
_LAYER_TYPES: Final[dict[tuple[ManifestForm, str], str]] = {
    ("docker", ""): "application/vnd.docker.image.rootfs.diff.tar",
    ("docker", "gzip"): "application/vnd.docker.image.rootfs.diff.tar.gzip",
    ("oci", ""): "application/vnd.oci.image.layer.v1.tar",
    ("oci", "gzip"): "application/vnd.oci.image.layer.v1.tar+gzip",
    ("oci", "zstd"): "application/vnd.oci.image.layer.v1.tar+zstd",
}


@dataclass(frozen=True, slots=True)
class ArchivedImage:
    """An ImageSource. Its compressed layers are files of the cache: `forget` them after the push."""

    document_made: Document
    contents: dict[str, Content]
    compressed: list[Compressed] = field(default_factory=list)

    def top(self) -> Document:
        return self.document_made

    def document(self, descriptor: Descriptor) -> Document:
        raise TransferError(f"a docker-archive holds no manifest {descriptor.digest}")

    def content(self, blob: Descriptor) -> Content:
        return self.contents[blob.digest]

    def untagged(self) -> list[Document]:
        return []

    def forget(self) -> None:
        for each in self.compressed:
            forget(each)


def prepare(
    path: Path,
    tag: str,
    *,
    form: ManifestForm,
    compresses: bool,
    directory: Path,
    jobs: int,
    progress: Progress,
    stop: Stop,
) -> ArchivedImage:
    """Compresses the layers into `directory` and makes the manifest. `tag` chooses among several images.

    Raises TransferError, Damaged where a layer is not what the configuration says.
    """
    members = read_members(path)
    entry = _choose(path, members, tag)
    config = _member(path, members, entry.get("Config"))
    config_bytes = config.read(DOCUMENT_BYTES_MAX)
    names = entry.get("Layers") or []
    diff_ids = _diff_ids(path, config_bytes)
    if not isinstance(names, list) or len(names) != len(diff_ids):
        raise Damaged(f"{path}: its manifest.json and its configuration do not agree on the layers")
    layers = {diff_id: _member(path, members, name) for diff_id, name in zip(diff_ids, names, strict=True)}
    packed: dict[str, Compressed] = {}
    forms = {diff_id: form_of(layer) for diff_id, layer in layers.items()}

    def pack(diff_id: str) -> Callable[[], None]:
        bar = progress.bar(f"{short(diff_id)} packing", layers[diff_id].size)

        def at(position: int) -> None:
            stop.check()
            bar.at(position)

        def task() -> None:
            if compresses and not forms[diff_id]:
                packed[diff_id] = compress(layers[diff_id], diff_id, directory, at)
            else:
                digest = digest_of_content(layers[diff_id], "sha256", stop.check)
                if not forms[diff_id] and diff_id.startswith("sha256:") and digest != diff_id:
                    raise Damaged(f"{path} is damaged: a layer has the digest {digest} instead of {diff_id}")
                packed[diff_id] = Compressed(layers[diff_id], digest)
            bar.done("packed")

        return task

    run_all([pack(diff_id) for diff_id in layers], min(jobs, os.cpu_count() or 1), stop, progress.tell)
    descriptors = [
        _descriptor(
            _LAYER_TYPES[form, "gzip" if compresses and not forms[diff_id] else forms[diff_id]],
            packed[diff_id].digest,
            packed[diff_id].content.size,
        )
        for diff_id in diff_ids
    ]
    config_digest = digest_of(config_bytes)
    document = _manifest(form, _descriptor(_CONFIG_TYPES[form], config_digest, len(config_bytes)), descriptors)
    contents = {each.digest: each.content for each in packed.values()} | {config_digest: config}
    made = [each for each in packed.values() if each.content.path != path]
    return ArchivedImage(document, contents, made)


def _choose(path: Path, members: dict[str, Content], tag: str) -> dict[str, Any]:
    try:
        entries = json.loads(_member(path, members, "manifest.json").read(DOCUMENT_BYTES_MAX))
        names = {name: entry for entry in entries for name in entry.get("RepoTags") or []}
    except (ValueError, AttributeError, TypeError) as error:
        raise Damaged(f"{path}: its manifest.json is malformed: {error}") from error
    found = entries
    if tag:
        found = [entry for name, entry in names.items() if name == tag or name.rpartition(":")[2] == tag]
    if not found or any(entry is not found[0] for entry in found):
        asked = f"has no image named {tag}, or several" if tag else "holds several images: say which by :TAG"
        raise TransferError(f"{path} {asked}; there is {', '.join(sorted(names)) or 'none with a name'}")
    chosen: dict[str, Any] = found[0]
    return chosen


def _diff_ids(path: Path, config: bytes) -> list[str]:
    try:
        return [check_digest(each) for each in json.loads(config)["rootfs"]["diff_ids"] or []]
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{path}: the image's configuration is malformed: {error}") from error


def _member(path: Path, members: dict[str, Content], name: object) -> Content:
    if not isinstance(name, str) or name not in members:
        raise Damaged(f"{path} does not have {str(name)[:200]!r}")
    return members[name]


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "size": size, "digest": digest}


def _manifest(form: ManifestForm, config: dict[str, Any], layers: list[dict[str, Any]]) -> Document:
    media_type = DOCKER_MANIFEST if form == "docker" else OCI_MANIFEST
    fields = {"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers}
    return parse_document(json.dumps(fields, indent=3).encode(), media_type)
