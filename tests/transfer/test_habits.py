"""Registries differ: those without ranges, without pieces, those that are busy, and those that send elsewhere."""

from __future__ import annotations

import json
import time
from email.utils import formatdate
from pathlib import Path

import pytest

from tests.clients.images import Index, layout_blobs
from tests.transfer.conftest import Client
from tests.transfer.small_registry import Habits, SmallRegistry, digest_of


def _blobs(index: Index) -> set[str]:
    return {layer.digest for image in index.images for layer in image.layers} | {
        image.image_id for image in index.images
    }


@pytest.mark.parametrize("status", [400, 404, 405, 416, 501])
def test_a_registry_that_refuses_pieces_gets_blobs_whole(client: Client, platforms: Index, status: int) -> None:
    with SmallRegistry(Habits(patch_refused=status)) as registry:
        client.run("push", platforms.layout, f"{registry.address}/a:v1", "--retries", "1")
        assert set(registry.content.blobs) == _blobs(platforms)
        assert registry.content.uploads == {}


def test_pieces_are_of_the_size_that_is_asked_for_and_not_below_the_registrys_least(
    client: Client, platforms: Index
) -> None:
    with SmallRegistry() as registry:
        client.run("push", platforms.layout, f"{registry.address}/a:v1", "--piece", "512KiB")
        ranges = {headers["content-range"] for _, _, headers in registry.sent("PATCH")}
        assert "524288-1048575" in ranges
    with SmallRegistry(Habits(piece_bytes_min=2 << 20)) as registry:
        client.run("push", platforms.layout, f"{registry.address}/a:v1", "--piece", "512KiB")
        ranges = {headers["content-range"] for _, _, headers in registry.sent("PATCH")}
        assert "0-2097151" in ranges
        assert set(registry.content.blobs) == _blobs(platforms)


def test_a_registry_without_ranges_is_pulled_from_all_the_same(
    client: Client, platforms: Index, tmp_path: Path
) -> None:
    with SmallRegistry() as registry:
        client.run("push", platforms.layout, f"{registry.address}/a:v1")
        registry.habits.ranges = False
        layer = platforms.images[0].layers[0]
        partial = tmp_path / "layout" / ".partial" / layer.digest.replace(":", "-")
        for begun in (layer.path.read_bytes()[:1_500_000], b"something else", layer.path.read_bytes() + b"too long"):
            (tmp_path / "layout" / "blobs").mkdir(parents=True, exist_ok=True)
            partial.parent.mkdir(exist_ok=True)
            partial.write_bytes(begun)
            client.run("pull", f"{registry.address}/a:v1", tmp_path / "layout")
            assert layout_blobs(tmp_path / "layout") == layout_blobs(platforms.layout)
            (tmp_path / "layout" / "blobs" / "sha256" / layer.digest.removeprefix("sha256:")).unlink()


def test_a_partial_file_is_gone_on_with_by_range_and_a_wrong_one_is_fetched_from_the_start(
    client: Client, platforms: Index, tmp_path: Path
) -> None:
    with SmallRegistry() as registry:
        client.run("push", platforms.layout, f"{registry.address}/a:v1")
        layer = platforms.images[0].layers[0]
        path = f"/v2/a/blobs/{layer.digest}"
        partial = tmp_path / "layout" / ".partial" / layer.digest.replace(":", "-")
        for begun, asked in ((layer.path.read_bytes()[:1_500_000], [1_500_000]), (b"wrong", [5, None])):
            (tmp_path / "layout" / "blobs").mkdir(parents=True, exist_ok=True)
            partial.parent.mkdir(exist_ok=True)
            partial.write_bytes(begun)
            before = len(registry.requests)
            client.run("pull", f"{registry.address}/a:v1", tmp_path / "layout")
            gets = [
                headers for method, where, headers in registry.requests[before:] if (method, where) == ("GET", path)
            ]
            assert [headers.get("range") for headers in gets] == [start and f"bytes={start}-" for start in asked]
            assert layout_blobs(tmp_path / "layout") == layout_blobs(platforms.layout)
            (tmp_path / "layout" / "blobs" / "sha256" / layer.digest.removeprefix("sha256:")).unlink()


def test_a_busy_registry_is_asked_again_when_it_says_and_not_for_ever(client: Client, platforms: Index) -> None:
    with SmallRegistry(Habits(busy=3)) as registry:
        done = client.run("push", platforms.layout, f"{registry.address}/a:v1", "--jobs", "1")
        assert done.stderr.count("trying again in 1.0 s") == 3
        assert set(registry.content.blobs) == _blobs(platforms)
    with SmallRegistry(Habits(busy=1000)) as registry:
        done = client.run("push", platforms.layout, f"{registry.address}/a:v1", "--jobs", "1", "--retries", "1", code=1)
        assert "the same command goes on" in done.stderr
        assert len(registry.requests) == 2


def test_a_date_is_understood_as_a_time_to_wait(client: Client, platforms: Index) -> None:
    before_s = time.monotonic()
    with SmallRegistry(Habits(busy=1, retry_after=formatdate(time.time() + 3, usegmt=True))) as registry:
        client.run("push", platforms.layout, f"{registry.address}/a:v1", "--jobs", "1")
        assert time.monotonic() - before_s > 1.5


def test_a_blob_whose_last_answer_was_lost_is_not_sent_again(client: Client, platforms: Index) -> None:
    with SmallRegistry(Habits(puts_unanswered=2)) as registry:
        done = client.run("push", platforms.layout, f"{registry.address}/a:v1", "--jobs", "1")
        assert done.stderr.count("trying again") == 2
        assert "2 exists" in done.stderr
        assert set(registry.content.blobs) == _blobs(platforms)
        starts = [path for _, path, _ in registry.sent("PATCH")]
        assert len(starts) == len(set(starts))


def test_a_redirect_to_another_host_is_followed_without_the_login(
    client: Client, platforms: Index, tmp_path: Path
) -> None:
    password = ["--username", "ann", "--password-stdin"]
    with SmallRegistry(Habits(asks_for="basic")) as registry, SmallRegistry() as elsewhere:
        client.run("push", platforms.layout, f"{registry.address}/a:v1", *password, stdin="secret:with:colons\n")
        elsewhere.content = registry.content
        registry.habits.redirect = elsewhere.address
        client.run("pull", f"{registry.address}/a:v1", tmp_path / "layout", *password, stdin="secret:with:colons\n")
        assert layout_blobs(tmp_path / "layout") == layout_blobs(platforms.layout)
        assert len(elsewhere.sent("GET")) == len(_blobs(platforms))
        assert not [headers for _, _, headers in elsewhere.requests if "authorization" in headers]
        assert all("authorization" in headers for _, _, headers in registry.requests[-3:])


def test_a_foreign_layer_is_left_out_and_said(client: Client, tmp_path: Path) -> None:
    foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    config = b'{"rootfs":{"type":"layers","diff_ids":[]}}'
    with SmallRegistry() as registry:
        content = registry.content
        digest = digest_of(config)
        content.blobs[digest] = config
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "digest": digest,
                "size": len(config),
            },
            "layers": [
                {"mediaType": foreign, "digest": f"sha256:{'1' * 64}", "size": 5, "urls": ["http://elsewhere/"]}
            ],
        }
        content.manifests["v1"] = (str(manifest["mediaType"]), json.dumps(manifest).encode())
        done = client.run("pull", f"{registry.address}/a:v1", tmp_path / "layout")
        assert "foreign layer" in done.stderr
        client.run("push", tmp_path / "layout", f"{registry.address}/a:v2")
        assert content.manifests["v2"] == content.manifests["v1"]
