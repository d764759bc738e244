"""Signatures, SBOMs and whatever else refers to an image (OCI distribution specification, "Listing Referrers").

A registry that keeps track of them itself answers a manifest with a subject by OCI-Subject. For others, clients keep an
index under the tag <algorithm>-<hex of the subject> ("Referrers Tag Schema").
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from speedy.transfer.documents import (
    OCI_INDEX,
    Descriptor,
    Document,
    parse_document,
)
from speedy.transfer.errors import Refused
from speedy.transfer.patience import RetryLimits, Stop, patiently
from speedy.transfer.repository import Repository

#: what refers to something that refers to something ...
_DEPTH_MAX: Final = 4
_REFERRERS_MAX: Final = 1000


def referring(documents: Sequence[Document], candidates: Sequence[Document]) -> list[Document]:
    """Those of `candidates` whose subject is one of `documents`, or one that was found already."""
    known = {document.descriptor.digest for document in documents}
    found: dict[str, Document] = {}
    for _ in range(_DEPTH_MAX):
        fresh = [
            document
            for document in candidates
            if document.subject is not None
            and document.subject.digest in known
            and document.descriptor.digest not in found
        ]
        if not fresh:
            break
        for document in fresh:
            found[document.descriptor.digest] = document
            known.add(document.descriptor.digest)
    return list(found.values())


def push_referrer(repository: Repository, document: Document, retries: RetryLimits, stop: Stop) -> None:
    """The manifest by its digest, and its place in the subject's index where the registry keeps none."""
    is_tracked = patiently(lambda: repository.put_manifest(document.descriptor.digest, document), retries, stop)
    if not is_tracked and document.subject is not None:
        subject = document.subject.digest
        patiently(lambda: _add_to_tag(repository, subject, document), retries, stop)


def find_referrers(repository: Repository, digest: str) -> list[Descriptor]:
    """By the registry's list, or by the tag where it has none."""
    listed = repository.referrers(digest)
    if listed is None:
        listed = _tagged(repository, digest)
    return [] if listed is None else list(listed.manifests[:_REFERRERS_MAX])


def _tagged(repository: Repository, digest: str) -> Document | None:
    try:
        found = repository.manifest(_tag(digest))
    except Refused as error:
        if error.answered == 404:
            return None
        raise
    return found if found.descriptor.is_index else None


def _add_to_tag(repository: Repository, subject: str, document: Document) -> None:
    """Two clients that do so at once may lose one entry: the specification knows no better for such registries."""
    listed = _tagged(repository, subject)
    index: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
    if listed is not None:
        if any(child.digest == document.descriptor.digest for child in listed.manifests):
            return
        index = json.loads(listed.content)
    entry = document.descriptor.as_json()
    artifact_type = document.artifact_type or (document.config.media_type if document.config is not None else "")
    if artifact_type:
        entry["artifactType"] = artifact_type
    if document.annotations:
        entry["annotations"] = document.annotations
    index["manifests"].append(entry)
    content = json.dumps(index, separators=(",", ":")).encode()
    repository.put_manifest(_tag(subject), parse_document(content, OCI_INDEX))


def _tag(digest: str) -> str:
    return digest.replace(":", "-")[:128]
