"""Routes of manifests: /v2/<name>/manifests/<tag or digest>."""

from __future__ import annotations

from werkzeug.wrappers import Response

from registry_driver.calls import Call, answer, conditions, head_answer, not_modified
from registry_driver.names import TagInvalid, check_digest, check_tag, is_digest, printable
from registry_driver.oci_errors import TooManyTags
from registry_driver.registry import Registry
from registry_driver.routes import manifest_path
from wire.errors import ManifestUnknown

#: tags in one PUT; more would make a request line that proxies refuse
TAGS_MAX = 64


def get_manifest(registry: Registry, call: Call) -> Response:
    """GET and HEAD. The stored bytes and type, whatever Accept says: a client's digest is of these bytes."""
    manifest = registry.manifest(call.repository, _known_form(call.reference))
    etag = f'"{manifest.digest}"'
    headers = {"Docker-Content-Digest": manifest.digest, "ETag": etag}
    if not_modified(call, etag):
        return answer(304, headers)
    headers["Content-Type"] = manifest.media_type
    if call.request.method == "HEAD":
        return head_answer(headers, manifest.size)
    return answer(200, headers, registry.read_manifest(call.repository, manifest))


def put_manifest(registry: Registry, call: Call) -> Response:
    """Store a manifest under its digest and point the reference, and every ?tag=, at it. What If-Match and
    If-None-Match say is of the reference in the path."""
    digest: str | None = None
    tags = [check_tag(tag) for tag in call.request.args.getlist("tag")]
    if len(tags) > TAGS_MAX:
        raise TooManyTags(f"at most {TAGS_MAX} tags in one request")
    pointed = dict.fromkeys(tags)
    if is_digest(call.reference):
        digest = check_digest(call.reference)
    else:
        pointed[check_tag(call.reference)] = None
    assert call.body is not None, "PUT carries a body"
    body = call.body.read_all(registry.limits.manifest_bytes_max)
    manifest, document = registry.put_manifest(
        call.repository,
        body,
        call.request.headers.get("Content-Type", ""),
        digest=digest,
        tags=tuple(pointed),
        conditions=conditions(call),
    )
    headers = {"Location": manifest_path(call.repository, manifest.digest), "Docker-Content-Digest": manifest.digest}
    if document.subject is not None:
        headers["OCI-Subject"] = document.subject
    if tags:
        headers["OCI-Tag"] = ", ".join(dict.fromkeys(tags))
    return answer(201, headers)


def delete_manifest(registry: Registry, call: Call) -> Response:
    registry.delete_reference(call.repository, _known_form(call.reference), conditions(call))
    return answer(202, {})


def _known_form(reference: str) -> str:
    """Raises DigestInvalid; a malformed tag is one that cannot be there: ManifestUnknown."""
    if is_digest(reference):
        return check_digest(reference)
    try:
        return check_tag(reference)
    except TagInvalid as exc:
        raise ManifestUnknown("there is no such tag", tag=printable(reference)) from exc
