"""Paths below /v2/ and what they name."""

from __future__ import annotations

import pytest

from registry_driver.names import NameInvalid
from registry_driver.oci_errors import RouteUnknown
from registry_driver.routes import Route, parse_route

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("", Route("ping")),
        ("_catalog", Route("catalogue")),
        ("a/tags/list", Route("tags", "a")),
        ("a/b/c/tags/list", Route("tags", "a/b/c")),
        (f"a/blobs/{DIGEST}", Route("blob", "a", DIGEST)),
        ("a/blobs/uploads", Route("uploads", "a")),
        ("a/blobs/uploads/", Route("uploads", "a")),
        ("a/b/blobs/uploads/xyz", Route("upload", "a/b", "xyz")),
        ("a/b/blobs/uploads/xyz/", Route("upload", "a/b", "xyz")),
        ("a/manifests/latest", Route("manifest", "a", "latest")),
        (f"a/referrers/{DIGEST}", Route("referrers", "a", DIGEST)),
        # names may contain the words that separate
        ("manifests/manifests/manifests", Route("manifest", "manifests", "manifests")),
        ("a/blobs/uploads/manifests/latest", Route("manifest", "a/blobs/uploads", "latest")),
        ("a/blobs/uploads/tags/list", Route("tags", "a/blobs/uploads")),
        ("tags/list/tags/list", Route("tags", "tags/list")),
        ("a/tags/manifests/list", Route("manifest", "a/tags", "list")),
        ("a/blobs/blobs/uploads/xyz", Route("upload", "a/blobs", "xyz")),
    ],
)
def test_paths_are_read_from_the_right(path: str, route: Route) -> None:
    assert parse_route(path, "/v2/" + path) == route


@pytest.mark.parametrize("path", ["a", "a/b", "a/b/c", "_catalog/x", "a/manifests/", "a/blobs/x/", "a/uploads/x", "//"])
def test_other_paths_are_unknown(path: str) -> None:
    with pytest.raises(RouteUnknown):
        parse_route(path, "/v2/" + path)


@pytest.mark.parametrize(
    "path",
    [
        "/tags/list",
        "A/tags/list",
        "a//b/tags/list",
        "../manifests/x",
        "a/../b/manifests/x",
        "ä/manifests/x",
        ". /blobs/x",
    ],
)
def test_names_that_are_none_are_refused(path: str) -> None:
    with pytest.raises(NameInvalid):
        parse_route(path, "/v2/" + path)


@pytest.mark.parametrize("target", ["/v2/a%2fb/tags/list", "/v2/a%2Fb/tags/list?n=1"])
def test_an_encoded_slash_is_not_a_slash(target: str) -> None:
    with pytest.raises(NameInvalid):
        parse_route("a/b/tags/list", target)


def test_an_encoded_slash_in_the_query_is_one() -> None:
    assert parse_route("a/blobs/uploads/", "/v2/a/blobs/uploads/?mount=x&from=b%2Fc") == Route("uploads", "a")
