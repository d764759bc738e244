"""Wrong bytes get no name: neither those of a registry that lies, nor those of a disk that does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.images import Index, layout_blobs
from tests.transfer.conftest import Client
from tests.transfer.small_registry import Content, Habits, SmallRegistry


@pytest.fixture
def stored(client: Client, platforms: Index) -> Content:
    """What an honest registry has after a push."""
    with SmallRegistry() as registry:
        client.run("push", platforms.layout, f"{registry.address}/a:v1", "--quiet")
        return registry.content


def _flip(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    ("habits", "says"),
    [
        (Habits(blob=_flip), "have another digest"),
        (Habits(blob=lambda content: content + b"x"), "more than the"),
        (Habits(blob=lambda content: content[:-1]), "ended after"),
        (Habits(manifest=lambda content: content.replace(b'"amd64"', b'"arm64"')), "has the digest"),
        (Habits(manifest=lambda _: b"[]"), "has the digest"),
        (Habits(manifest=lambda _: b"x" * (5 << 20)), "more than"),
    ],
    ids=["other", "longer", "shorter", "other manifest", "no manifest", "endless manifest"],
)
def test_what_a_lying_registry_sends_is_not_kept(
    client: Client, stored: Content, platforms: Index, tmp_path: Path, *, habits: Habits, says: str
) -> None:
    with SmallRegistry(habits, stored) as registry:
        reference = f"{registry.address}/a@{platforms.digest}"
        done = client.run("pull", reference, f"oci:{tmp_path}/layout:v1", "--retries", "0", code=1)
    assert says in done.stderr
    if habits.manifest is not Habits().manifest:
        assert not (tmp_path / "layout").exists()
        return
    assert json.loads((tmp_path / "layout" / "index.json").read_text())["manifests"] == []
    assert layout_blobs(tmp_path / "layout") <= layout_blobs(platforms.layout)


def test_a_copy_on_disk_that_got_damaged_is_fetched_again(
    client: Client, stored: Content, platforms: Index, tmp_path: Path
) -> None:
    layer = max(platforms.images[0].layers, key=lambda layer: layer.length)
    with SmallRegistry(content=stored) as registry:
        client.run("pull", f"{registry.address}/a:v1", tmp_path / "layout")
        blob = tmp_path / "layout" / "blobs" / "sha256" / layer.digest.removeprefix("sha256:")
        blob.write_bytes(_flip(blob.read_bytes()))
        done = client.run("pull", f"{registry.address}/a:v1", tmp_path / "layout")
    assert "is damaged; fetching it again" in done.stderr
    assert layout_blobs(tmp_path / "layout") == layout_blobs(platforms.layout)


@pytest.mark.parametrize("damage", [_flip, lambda content: content[:-1]], ids=["flipped", "shorter"])
@pytest.mark.parametrize("layer", [0, 2], ids=["in pieces", "in one request"])
def test_a_damaged_layer_is_not_pushed(
    client: Client, stored: Content, tmp_path: Path, platforms: Index, *, damage: Callable[[bytes], bytes], layer: int
) -> None:
    with SmallRegistry(content=stored) as registry:
        client.run("pull", f"{registry.address}/a:v1", tmp_path / "layout")
    digest = platforms.images[0].layers[layer].digest
    blob = tmp_path / "layout" / "blobs" / "sha256" / digest.removeprefix("sha256:")
    blob.write_bytes(damage(blob.read_bytes()))
    with SmallRegistry() as registry:
        done = client.run("push", tmp_path / "layout", f"{registry.address}/a:v1", code=1)
        assert "is damaged" in done.stderr or "bytes instead of" in done.stderr
        assert digest not in registry.content.blobs
        assert registry.content.manifests == {}


def test_a_file_that_changed_between_two_runs_does_not_get_its_old_name(
    client: Client, stored: Content, platforms: Index, tmp_path: Path
) -> None:
    """The registry has the first half from before; only its own check, or ours, can tell."""
    with SmallRegistry(content=stored) as registry:
        client.run("pull", f"{registry.address}/a:v1", tmp_path / "layout")
    layer = platforms.images[0].layers[0]
    options = ["--piece", "1MiB", "--jobs", "1", "--retries", "0"]
    with SmallRegistry() as registry:
        registry.patches_max = 2
        client.run("push", tmp_path / "layout", f"{registry.address}/a:v1", *options, code=1)
        assert any(len(content) == 2 << 20 for content in registry.content.uploads.values())
        blob = tmp_path / "layout" / "blobs" / "sha256" / layer.digest.removeprefix("sha256:")
        content = blob.read_bytes()
        blob.write_bytes(b"other" + content[5:])
        registry.patches_max = 1_000_000
        done = client.run("push", tmp_path / "layout", f"{registry.address}/a:v1", *options, code=1)
        assert "is damaged" in done.stderr
        assert layer.digest not in registry.content.blobs
        blob.write_bytes(content)
        client.run("push", tmp_path / "layout", f"{registry.address}/a:v1", *options)
        assert registry.content.blobs[layer.digest] == content
