"""SRC and DEST, as people write them."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from speedy.transfer.places import LocalPlace, PlaceError, RemotePlace, parse_destination, parse_remote, parse_source
from tests.clients.images import Image, Index

_DIGEST = f"sha256:{'a' * 64}"


@pytest.mark.parametrize(
    ("text", "place", "endpoint"),
    [
        ("localhost:5000/a", RemotePlace("localhost:5000", "a"), "localhost:5000"),
        ("docker://r.example/team/app:v1", RemotePlace("r.example", "team/app", "v1"), "r.example"),
        ("https://r.example/team/app:v1", RemotePlace("r.example", "team/app", "v1", scheme="https"), "r.example"),
        (f"r.example/a@{_DIGEST}", RemotePlace("r.example", "a", digest=_DIGEST), "r.example"),
        (f"r.example/a:v1@{_DIGEST}", RemotePlace("r.example", "a", digest=_DIGEST), "r.example"),
        ("[::1]:5000/a:v1", RemotePlace("[::1]:5000", "a", "v1"), "[::1]:5000"),
        ("alpine", RemotePlace("docker.io", "library/alpine"), "registry-1.docker.io"),
        ("team/app:v1", RemotePlace("docker.io", "team/app", "v1"), "registry-1.docker.io"),
        ("docker.io/alpine:3", RemotePlace("docker.io", "library/alpine", "3"), "registry-1.docker.io"),
    ],
)
def test_a_registry_is_understood(text: str, place: RemotePlace, endpoint: str) -> None:
    assert parse_remote(text) == place
    assert parse_remote(text).endpoint == endpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "r.example/",
        "r.example/Upper",
        "r.example/a b",
        "r.example/a:",
        "r.example/a:.x",
        "r.example/a@sha256:1",
        "r.example//a",
        "r.example/../a",
        "r.example/a?x=1",
        f"r.example/{'a' * 300}",
        "r.example:99999/a",
        "r.example:0/a",
        "r.example:port/a",
        "r..example:/a",
        "-r.example/a",
        "[::1/a",
        "oci:./image",
        "docker-daemon:app:v1",
    ],
)
def test_what_is_no_repository_is_refused(text: str) -> None:
    if text == "r.example/a:":
        assert parse_remote(text).reference == "latest"
        return
    with pytest.raises(PlaceError):
        parse_remote(text)


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("127.0.0.9:1", True),
        ("[::1]:5000", True),
        ("::1", False),
        ("127.0.0.1.example:5000", False),
        ("r.example", False),
        ("10.0.0.1:5000", False),
    ],
)
def test_only_this_machine_is_loopback(host: str, is_loopback: bool) -> None:
    assert RemotePlace(host, "a").is_loopback is is_loopback


def test_a_source_without_a_prefix_is_what_lies_there(tmp_path: Path, small: Image, platforms: Index) -> None:
    assert parse_source(str(platforms.layout)) == LocalPlace("oci", platforms.layout)
    assert parse_source(f"{platforms.layout}:v1") == LocalPlace("oci", platforms.layout, tag="v1")
    assert parse_source(str(small.archive)) == LocalPlace("docker-archive", small.archive)
    with tarfile.open(tmp_path / "oci.tar", "w") as archive:
        archive.add(platforms.layout, arcname=".")
    assert parse_source(str(tmp_path / "oci.tar")) == LocalPlace("oci-archive", tmp_path / "oci.tar")
    assert parse_source("app:v1") == LocalPlace("docker-daemon", Path(), name="app:v1")
    (tmp_path / "a:b").mkdir()
    assert parse_source(f"oci:{tmp_path}/a:b") == LocalPlace("oci", tmp_path / "a:b")
    (tmp_path / "x.tar").write_bytes(b"no tar")
    for wrong in (str(tmp_path / "x.tar"), f"{tmp_path}/none", "none.tar", "oci:"):
        with pytest.raises(PlaceError):
            parse_source(wrong)


def test_a_destination_without_a_prefix_is_a_layout_or_an_archive_for_docker(tmp_path: Path) -> None:
    assert parse_destination("image") == LocalPlace("oci", Path("image"))
    assert parse_destination("./image:v2") == LocalPlace("oci", Path("image"), tag="v2")
    assert parse_destination("image.tar") == LocalPlace("docker-archive", Path("image.tar"))
    assert parse_destination("oci-archive:image.tar") == LocalPlace("oci-archive", Path("image.tar"))
    assert parse_destination("docker-daemon:app:v1") == LocalPlace("docker-daemon", Path(), name="app:v1")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(PlaceError):
        parse_destination(str(tmp_path / "file"))
