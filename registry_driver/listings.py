"""Routes that list: tags, repositories, referrers. Pages follow each other by `last` and a Link header."""

from __future__ import annotations

import json
from typing import Any, Final

from werkzeug.wrappers import Response

from metaserver.interface import Manifest, ManifestPage
from registry_driver.calls import Call, answer, last_query, limit_query
from registry_driver.manifest_document import OCI_INDEX
from registry_driver.names import DigestInvalid, is_digest_form, is_media_type, printable
from registry_driver.registry import Registry
from registry_driver.routes import next_link

TAGS_PAGE_MAX: Final = 10_000
REPOSITORIES_PAGE_MAX: Final = 1_000
#: Referrers carry annotations of any size; clients take manifests of 4 MB.
REFERRERS_PAGE_BYTES: Final = 3_500_000

_JSON: Final = {"Content-Type": "application/json"}


def ping(registry: Registry, call: Call) -> Response:
    return answer(200, _JSON, b"{}")


def list_tags(registry: Registry, call: Call) -> Response:
    last, limit = last_query(call), limit_query(call, TAGS_PAGE_MAX)
    # n=0 asks for nothing, but still of a repository that must be there.
    page = registry.tags(call.repository, last, max(1, limit))
    names = page.names[:limit]
    headers = dict(_JSON)
    if page.more and names:
        headers["Link"] = next_link(f"/v2/{call.repository}/tags/list", n=limit, last=names[-1])
    return answer(200, headers, json.dumps({"name": call.repository, "tags": names}).encode())


def list_repositories(registry: Registry, call: Call) -> Response:
    last, limit = last_query(call), limit_query(call, REPOSITORIES_PAGE_MAX)
    headers = dict(_JSON)
    if limit == 0:
        return answer(200, headers, b'{"repositories": []}')
    page = registry.repositories(last, limit)
    if page.more and page.names:
        headers["Link"] = next_link("/v2/_catalog", n=limit, last=page.names[-1])
    return answer(200, headers, json.dumps({"repositories": page.names}).encode())


def list_referrers(registry: Registry, call: Call) -> Response:
    """An index of the manifests whose subject is the digest; empty for a digest nobody refers to, or of an algorithm we
    do not know."""
    if not is_digest_form(call.reference):
        raise DigestInvalid("referrers are asked for by a digest", digest=printable(call.reference))
    query = call.request.args
    artifact_type = query.get("artifactType") or None
    if artifact_type is not None and ";" not in artifact_type:
        # A bare plus sign in a query means a space, which no media type without parameters holds: whoever wrote it
        # meant the plus sign.
        artifact_type = artifact_type.replace(" ", "+")
    last = last_query(call)
    headers = {"Content-Type": OCI_INDEX}
    if artifact_type is not None:
        headers["OCI-Filters-Applied"] = "artifactType"
    descriptors: list[bytes] = []
    size = 0
    listed = last
    # What is no media type is no manifest's artifactType.
    known = artifact_type is None or is_media_type(artifact_type)
    page = (
        registry.referrers(call.repository, call.reference, artifact_type, last) if known else ManifestPage((), False)
    )
    more = page.more
    for manifest in page.manifests:
        # As UTF-8, like most manifests: escaped, their annotations could take three times the bytes that clients take.
        descriptor = json.dumps(_descriptor(manifest), ensure_ascii=False).encode()
        size += len(descriptor)
        if descriptors and size > REFERRERS_PAGE_BYTES:
            more = True
            break
        descriptors.append(descriptor)
        listed = manifest.digest
    if more:
        query_on: dict[str, str | int] = {"last": listed}
        if artifact_type is not None:
            query_on["artifactType"] = artifact_type
        headers["Link"] = next_link(f"/v2/{call.repository}/referrers/{call.reference}", **query_on)
    body = b'{"schemaVersion": 2, "mediaType": "%s", "manifests": [%s]}' % (OCI_INDEX.encode(), b", ".join(descriptors))
    return answer(200, headers, body)


def _descriptor(manifest: Manifest) -> dict[str, Any]:
    descriptor: dict[str, Any] = {"mediaType": manifest.media_type, "digest": manifest.digest, "size": manifest.size}
    if manifest.artifact_type is not None:
        descriptor["artifactType"] = manifest.artifact_type
    if manifest.annotations:
        descriptor["annotations"] = dict(manifest.annotations)
    return descriptor
