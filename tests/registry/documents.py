"""Manifests for tests, as dictionaries and as the bytes that are pushed."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from registry_driver.manifest_document import OCI_INDEX, OCI_MANIFEST

CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"


def sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def descriptor(content: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": sha256(content), "size": len(content)}


def image(config: bytes, *layers: bytes, **extra: Any) -> dict[str, Any]:
    """An OCI image manifest; `extra` keys are added or replace others."""
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(config, CONFIG_TYPE),
        "layers": [descriptor(layer, LAYER_TYPE) for layer in layers],
    } | extra


def index(*children: bytes, **extra: Any) -> dict[str, Any]:
    """An OCI index of manifests given by their bytes."""
    return {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [descriptor(child, OCI_MANIFEST) for child in children],
    } | extra


def encoded(document: Any) -> bytes:
    return json.dumps(document).encode()
