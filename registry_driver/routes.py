"""Which thing a path below /v2/ names.

    /v2/                                       ping
    /v2/_catalog                               catalogue
    /v2/<name>/tags/list                       tags
    /v2/<name>/blobs/<digest>                  blob
    /v2/<name>/blobs/uploads/                  uploads      (the slash may be missing)
    /v2/<name>/blobs/uploads/<upload id>       upload
    /v2/<name>/manifests/<tag or digest>       manifest
    /v2/<name>/referrers/<digest>              referrers

Names contain slashes, and may contain `blobs` or `manifests` as parts: a path is read from the right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

from registry_driver.names import NameInvalid, check_repository, printable
from registry_driver.oci_errors import RouteUnknown

Noun = Literal["ping", "catalogue", "tags", "blob", "uploads", "upload", "manifest", "referrers"]

_NOUNS: dict[str, Noun] = {"blobs": "blob", "manifests": "manifest", "referrers": "referrers"}


@dataclass(frozen=True, slots=True)
class Route:
    """`repository` has been checked for form; `reference` is the path's last part, unchecked ("" where the noun has
    none)."""

    noun: Noun
    repository: str = ""
    reference: str = ""


def parse_route(path: str, raw_target: str) -> Route:
    """The route of the decoded `path` below "/v2/"; `raw_target` is the request's target as it was sent.

    Raises RouteUnknown, NameInvalid.
    """
    if "%" in raw_target and "%2f" in raw_target.partition("?")[0].lower():
        # Whether this is a slash is decided differently by each proxy; no name of ours holds anything that needs it.
        raise NameInvalid("a name must not hold an encoded slash")
    if path == "":
        return Route("ping")
    parts = path.removesuffix("/").rsplit("/", 2)
    if parts == ["_catalog"]:
        return Route("catalogue")
    if len(parts) == 3:
        name, kind, last = parts
        if kind == "tags" and last == "list":
            return Route("tags", check_repository(name))
        if kind == "blobs" and last == "uploads":
            return Route("uploads", check_repository(name))
        if kind == "uploads" and name.endswith("/blobs"):
            return Route("upload", check_repository(name.removesuffix("/blobs")), last)
        if kind in _NOUNS and not path.endswith("/"):
            return Route(_NOUNS[kind], check_repository(name), last)
    raise RouteUnknown("the registry has no such page", path=printable(path))


def upload_path(repository: str, upload_id: str) -> str:
    return f"/v2/{repository}/blobs/uploads/{upload_id}"


def blob_path(repository: str, digest: str) -> str:
    return f"/v2/{repository}/blobs/{digest}"


def manifest_path(repository: str, digest: str) -> str:
    return f"/v2/{repository}/manifests/{digest}"


def next_link(path: str, **query: str | int) -> str:
    """A Link header that leads to the next page."""
    pairs = "&".join(f"{key}={quote(str(value), safe='')}" for key, value in query.items())
    return f'<{path}?{pairs}>; rel="next"'
