"""Descriptors, manifests and indexes (OCI image specification 1.1; docker's schema 2), as far as a copy needs them."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Final

from speedy.transfer.errors import Damaged, TransferError

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_ARTIFACT: Final = "application/vnd.oci.artifact.manifest.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
INDEX_TYPES: Final = frozenset({OCI_INDEX, DOCKER_LIST})
DOCUMENT_TYPES: Final = frozenset({OCI_MANIFEST, OCI_ARTIFACT, DOCKER_MANIFEST}) | INDEX_TYPES

#: largest manifest that is read, bytes (what the specification asks registries to take)
DOCUMENT_BYTES_MAX: Final = 4 << 20
#: blobs that tell which platform an image is for
CONFIG_TYPES: Final = frozenset(
    {"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"}
)
_DIGEST = re.compile(r"(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})")


@dataclass(frozen=True, slots=True)
class Platform:
    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def matches(self, other: Platform) -> bool:
        """`other` is what an index says; a variant counts only where this one names it."""
        return (self.os, self.architecture) == (other.os, other.architecture) and self.variant in ("", other.variant)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Content by its digest. `size` in bytes."""

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None

    @property
    def is_foreign(self) -> bool:
        """A layer that registries need not have: whoever wants it fetches it from where it may be had."""
        return "nondistributable" in self.media_type or ".foreign." in self.media_type

    @property
    def is_document(self) -> bool:
        return self.media_type in DOCUMENT_TYPES

    @property
    def is_index(self) -> bool:
        return self.media_type in INDEX_TYPES

    def as_json(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest or an index: its very bytes, and what they name. Foreign layers stand in `foreign` only."""

    descriptor: Descriptor
    content: bytes
    config: Descriptor | None
    layers: tuple[Descriptor, ...]
    manifests: tuple[Descriptor, ...]
    foreign: tuple[Descriptor, ...]
    subject: Descriptor | None
    artifact_type: str
    annotations: dict[str, str]

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        return self.layers if self.config is None else (self.config, *self.layers)


def digest_of(content: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def check_digest(text: object) -> str:
    """Raises Damaged for anything but a sha256 or sha512: names of files are made of it."""
    if not isinstance(text, str) or not _DIGEST.fullmatch(text):
        raise Damaged(f"{str(text)[:100]!r} is not a digest that is supported here")
    return text


def parse_platform(text: str) -> Platform:
    parts = text.split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise TransferError(f"{text!r} is not a platform like linux/amd64 or linux/arm64/v8")
    return Platform(*parts)


def parse_config_platform(content: bytes) -> Platform | None:
    """What an image's configuration says that it is for; None where it does not say."""
    try:
        fields = json.loads(content)
        return Platform(str(fields["os"]), str(fields["architecture"]), str(fields.get("variant") or ""))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def parse_document(content: bytes, media_type: str = "", expected_digest: str = "") -> Document:
    """`media_type` is what the content was announced as; the one written inside counts where there is one.

    Raises Damaged where the digest is not `expected_digest`, or for what is no manifest, TransferError for docker's
    first schema.
    """
    digest = digest_of(content, expected_digest.partition(":")[0] or "sha256")
    if expected_digest and digest != expected_digest:
        raise Damaged(f"a manifest that is named {expected_digest} has the digest {digest}")
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"the manifest {digest} is not JSON") from error
    if not isinstance(fields, dict):
        raise Damaged(f"the manifest {digest} is not a JSON object")
    if fields.get("schemaVersion") == 1:
        raise TransferError("the image has a manifest of docker's first schema, which is not supported")
    media_type = _media_type(fields, media_type)
    try:
        config = fields.get("config")
        parts = [parse_descriptor(part) for part in (fields.get("layers") or fields.get("blobs") or [])]
        children = [parse_descriptor(part) for part in (fields.get("manifests") or [])]
        subject = fields.get("subject")
        # An index may name layers as its children: a build cache does.
        layers = parts + [child for child in children if not child.is_document]
        return Document(
            descriptor=Descriptor(media_type, digest, len(content)),
            content=content,
            config=None if config is None else parse_descriptor(config),
            layers=tuple(layer for layer in layers if not layer.is_foreign),
            manifests=tuple(child for child in children if child.is_document),
            foreign=tuple(layer for layer in layers if layer.is_foreign),
            subject=None if subject is None else parse_descriptor(subject),
            artifact_type=str(fields.get("artifactType") or ""),
            annotations={str(name): str(value) for name, value in (fields.get("annotations") or {}).items()},
        )
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise Damaged(f"the manifest {digest} is malformed: {error}") from error


def parse_descriptor(fields: Any) -> Descriptor:
    size = fields["size"]
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ValueError(f"{size!r} is not a size")
    platform = fields.get("platform")
    return Descriptor(
        media_type=str(fields.get("mediaType") or ""),
        digest=check_digest(fields["digest"]),
        size=size,
        platform=None
        if not isinstance(platform, dict)
        else Platform(
            str(platform.get("os", "")), str(platform.get("architecture", "")), str(platform.get("variant") or "")
        ),
    )


def _media_type(fields: dict[str, Any], announced: str) -> str:
    inside = fields.get("mediaType")
    if isinstance(inside, str) and inside:
        return inside
    announced = announced.partition(";")[0].strip()
    if announced in DOCUMENT_TYPES:
        return announced
    # Old tools leave the field out; then the members tell.
    return OCI_INDEX if "manifests" in fields else OCI_MANIFEST
