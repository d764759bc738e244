"""What a manifest says: its type, what it refers to, its subject. Reads the bytes once and never writes them again.

Source: image-spec (manifest.md, image-index.md, descriptor.md) and Docker's image manifest version 2, schema 2.
Everything is bounded before it is believed: a manifest comes from anybody who may push.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from metaserver.interface import REFERENCES_MAX
from registry_driver.names import DigestInvalid, check_digest, is_media_type, printable
from wire.errors import BadRequest

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"

IMAGE_TYPES: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEX_TYPES: Final = frozenset({OCI_INDEX, DOCKER_LIST})

#: Layers of these types may lie elsewhere: their licence forbids to push them.
FOREIGN_LAYERS: Final = frozenset(
    {
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    }
)

#: Content types that say nothing about the manifest; its own mediaType or its shape decides then.
_UNTYPED = frozenset({"", "application/json", "application/octet-stream", "text/plain"})

#: Names that mean something here and to every client. Go's JSON knows them in any case ("Layers").
_NAMES: Final = frozenset(
    {"schemaVersion", "mediaType", "artifactType", "config", "layers", "manifests", "subject", "annotations"}
    | {"digest", "size", "urls", "data", "platform"}
)
_FOLDED_NAMES: Final = frozenset(name.casefold() for name in _NAMES)

#: the only way in which UTF-8 JSON names half a character of UTF-16
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


class ManifestInvalid(BadRequest):
    code = "manifest_invalid"


@dataclass(frozen=True, slots=True)
class ManifestDocument:
    """`blobs`, `manifests` and `optional` (foreign layers) are digests without repetition, in the manifest's order;
    `sizes` what it tells of `blobs`, in bytes."""

    media_type: str
    blobs: tuple[str, ...]
    manifests: tuple[str, ...]
    optional: tuple[str, ...]
    sizes: Mapping[str, int]
    subject: str | None
    artifact_type: str | None
    annotations: Mapping[str, str]


def parse_manifest(body: bytes, content_type: str) -> ManifestDocument:
    """What the manifest `body`, sent as `content_type` (may be empty, parameters are ignored), says. Raises
    ManifestInvalid."""
    document = _load(body)
    media_type = _media_type(document, content_type.partition(";")[0].strip().lower())
    if document.get("schemaVersion") != 2 or isinstance(document["schemaVersion"], bool):
        _refuse("schemaVersion must be 2; version 1 is not accepted")
    blobs: dict[str, None] = {}
    manifests: dict[str, None] = {}
    optional: dict[str, None] = {}
    sizes: dict[str, int] = {}
    config_type: str | None = None
    if media_type in IMAGE_TYPES:
        # Bytes that are an image to one reader and an index to another could show different content to a scanner and to
        # a runtime.
        if "manifests" in document:
            _refuse("an image manifest must not have manifests")
        config_type, config, sizes[config] = _descriptor(document.get("config"), "config")
        blobs[config] = None
        for at, layer in enumerate(_list(document, "layers")):
            layer_type, digest, size = _descriptor(layer, f"layers[{at}]")
            (optional if layer_type in FOREIGN_LAYERS else blobs)[digest] = None
            if sizes.setdefault(digest, size) != size:
                _refuse(f"layers[{at}].size is {size}, and {sizes[digest]} elsewhere for the same digest")
    else:
        if "layers" in document or "config" in document:
            _refuse("an index must not have config or layers")
        for at, child in enumerate(_list(document, "manifests")):
            manifests[_descriptor(child, f"manifests[{at}]")[1]] = None
    if len(blobs) + len(manifests) + len(optional) > REFERENCES_MAX:
        _refuse(f"a manifest may refer to {REFERENCES_MAX} digests at most")
    subject = None if document.get("subject") is None else _descriptor(document["subject"], "subject")[1]
    return ManifestDocument(
        media_type=media_type,
        blobs=tuple(blobs),
        manifests=tuple(manifests),
        optional=tuple(digest for digest in optional if digest not in blobs),
        sizes={digest: size for digest, size in sizes.items() if digest in blobs},
        subject=subject,
        artifact_type=_artifact_type(document) or config_type,
        annotations=_annotations(document),
    )


def _load(body: bytes) -> dict[str, Any]:
    try:
        # Decoded here and strictly: json.loads would also take UTF-16, which no client reads back.
        document = json.loads(body.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_object)
        if _SURROGATE.search(body) is not None:
            # Half a pair is no character: it could be neither stored nor told again, and every reader makes something
            # else of it. A whole pair passes.
            json.dumps(document, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as exc:
        raise ManifestInvalid(f"not a JSON document: {exc.msg} (line {exc.lineno}, column {exc.colno})") from exc
    except UnicodeError as exc:
        raise ManifestInvalid("not a JSON document: its text is not UTF-8") from exc
    except (ValueError, RecursionError) as exc:  # ValueError: numbers of thousands of digits, NaN
        raise ManifestInvalid(f"not a JSON document: {type(exc).__name__}") from exc
    if not isinstance(document, dict):
        _refuse("a manifest is a JSON object")
    _check_spelling(document, "the manifest")
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Raises ManifestInvalid where a name comes twice: one reader takes the first value, another the last, Go joins
    objects."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                _refuse(f"{printable(name)} comes twice in one object")
            seen.add(name)
    return found


def _check_spelling(value: Mapping[str, Any], where: str) -> None:
    """Raises ManifestInvalid for names that some readers take for one of _NAMES and others do not know."""
    for name in value:
        if name not in _NAMES and name.casefold() in _FOLDED_NAMES:
            _refuse(f"{where} spells {printable(name)} in another case than the specification")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _media_type(document: Mapping[str, Any], content_type: str) -> str:
    inside = document.get("mediaType")
    if inside is not None and not isinstance(inside, str):
        _refuse("mediaType must be a string")
    if (
        document.get("schemaVersion") == 1
        or "prettyjws" in content_type
        or content_type.endswith("docker.distribution.manifest.v1+json")
    ):
        _refuse("image manifests of schema version 1 are not accepted; push them again with a current client")
    if content_type in _UNTYPED:
        media_type = inside or (OCI_INDEX if "manifests" in document else OCI_MANIFEST)
    else:
        media_type = content_type
        if inside is not None and inside != media_type:
            _refuse(f"Content-Type says {printable(content_type)}, mediaType inside says {printable(inside)}")
    if media_type not in IMAGE_TYPES and media_type not in INDEX_TYPES:
        # What it refers to could not be known, and would be collected as garbage.
        known = ", ".join(sorted(IMAGE_TYPES | INDEX_TYPES))
        _refuse(f"manifest type {printable(media_type)} is not known; known are {known}")
    return media_type


def _list(document: Mapping[str, Any], key: str) -> list[Any]:
    found = document.get(key)
    if found is None and key in document:
        return []  # an empty list as Go programs write it
    if not isinstance(found, list):
        _refuse(f"{key} must be a list")
    return found


def _descriptor(value: Any, where: str) -> tuple[str, str, int]:
    """Media type, digest and size of a descriptor."""
    if not isinstance(value, dict):
        _refuse(f"{where} must be a descriptor")
    _check_spelling(value, where)
    media_type, digest, size = value.get("mediaType"), value.get("digest"), value.get("size")
    if not isinstance(media_type, str) or not is_media_type(media_type):
        _refuse(f"{where}.mediaType must be a media type")
    if not isinstance(digest, str):
        _refuse(f"{where}.digest must be a string")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 2**63:
        _refuse(f"{where}.size must be a number of bytes")
    try:
        return media_type, check_digest(digest), size
    except DigestInvalid as exc:
        raise ManifestInvalid(f"{where}.digest: {exc.message}", **exc.details) from exc


def _artifact_type(document: Mapping[str, Any]) -> str | None:
    found = document.get("artifactType")
    if found is None or found == "":
        return None
    if not isinstance(found, str) or not is_media_type(found):
        _refuse("artifactType must be a media type")
    return found


def _annotations(document: Mapping[str, Any]) -> dict[str, str]:
    found = document.get("annotations")
    if found is None:
        return {}
    if not isinstance(found, dict):
        _refuse("annotations must be an object")
    for key, value in found.items():
        if not isinstance(value, str):
            _refuse(f"annotation {printable(key)} must be a string")
        # PostgreSQL does not store it; it would come back as our defect later.
        if "\0" in key or "\0" in value:
            _refuse(f"annotation {printable(key)} holds NUL")
    return found


def _refuse(message: str) -> NoReturn:
    raise ManifestInvalid(message)
