"""Everything that a name stands for: manifests below an index, and the blobs that they name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from speedy.transfer.documents import CONFIG_TYPES, Descriptor, Document, Platform, parse_config_platform
from speedy.transfer.errors import TransferError

_DEPTH_MAX: Final = 8
_DOCUMENTS_MAX: Final = 10_000

Fetch = Callable[[Descriptor], Document]


@dataclass(frozen=True, slots=True)
class Closure:
    """`documents`: children before those that name them. `blobs` once each, the largest first: it takes longest."""

    documents: tuple[Document, ...]
    blobs: tuple[Descriptor, ...]
    foreign: tuple[Descriptor, ...]


def gather(tops: list[Document], fetch: Fetch) -> Closure:
    """Of several names at once. Raises TransferError for nests that are too deep or too large."""
    documents: dict[str, Document] = {}

    def visit(document: Document, depth: int) -> None:
        if depth > _DEPTH_MAX or len(documents) >= _DOCUMENTS_MAX:
            raise TransferError(f"{document.descriptor.digest}: an index that is too deep or too large")
        for child in document.manifests:
            if child.digest not in documents:
                visit(fetch(child), depth + 1)
        documents[document.descriptor.digest] = document

    for top in tops:
        if top.descriptor.digest not in documents:
            visit(top, 0)
    blobs = {blob.digest: blob for document in documents.values() for blob in document.blobs}
    foreign = {blob.digest: blob for document in documents.values() for blob in document.foreign}
    return Closure(
        tuple(documents.values()),
        tuple(sorted(blobs.values(), key=lambda blob: blob.size, reverse=True)),
        tuple(foreign.values()),
    )


def for_platform(top: Document, platform: Platform, fetch: Fetch) -> Document:
    """The one manifest for `platform`; a manifest that is no index is taken as it is (`check_platform` knows better).
    Raises TransferError for none."""
    for _ in range(_DEPTH_MAX):
        if not top.descriptor.is_index:
            return top
        found = [child for child in top.manifests if child.platform is not None and platform.matches(child.platform)]
        found = found or [child for child in top.manifests if child.is_index and child.platform is None]
        if not found:
            offered = ", ".join(sorted({str(child.platform) for child in top.manifests if child.platform}))
            raise TransferError(f"there is no image for {platform}; there is {offered or 'none for any platform'}")
        top = fetch(found[0])
    raise TransferError(f"{top.descriptor.digest}: an index that is too deep")


def check_platform(image: Document, platform: Platform, read: Callable[[Descriptor], bytes]) -> None:
    """Whether the only image that there is is for `platform`: its configuration, which `read` gives, tells. What does
    not say what it is for, as artifacts do not, is for any. Raises TransferError for an image of another platform."""
    if image.config is None or image.config.media_type not in CONFIG_TYPES:
        return
    found = parse_config_platform(read(image.config))
    if found is None or platform.matches(replace(found, variant=found.variant or platform.variant)):
        return
    raise TransferError(f"there is no image for {platform}; there is one, for {found}")
