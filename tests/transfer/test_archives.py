"""Archives on the way: what was compressed or fetched for one stays for the next run, and damage is told."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from tests.clients.images import Image, Index, build_image
from tests.transfer.conftest import Client
from tests.transfer.small_registry import Habits, SmallRegistry


def test_a_push_of_an_archive_that_was_cut_off_compresses_and_sends_only_the_rest(client: Client, small: Image) -> None:
    with SmallRegistry() as registry:
        arguments = ["push", small.archive, f"{registry.address}/a:v1", "--piece", "1MiB", "--jobs", "1", "--json"]
        registry.patches_max = 2
        client.run(*arguments, "--retries", "0", code=1)
        kept = {path.name: path.stat().st_mtime_ns for path in (client.cache / "speedy" / "layers").iterdir()}
        assert len(kept) == 2 * len(small.layers)
        registry.patches_max = 1_000_000
        before = len(registry.requests)
        result = json.loads(client.run(*arguments).stdout.splitlines()[-1])
        patches = [headers for method, _, headers in registry.requests[before:] if method == "PATCH"]
        assert patches[0]["content-range"].startswith("2097152-")
        assert result["bytes"] == sum(len(blob) for blob in registry.content.blobs.values()) - (2 << 20)
        assert list((client.cache / "speedy" / "layers").iterdir()) == []
        assert list((client.cache / "speedy" / "uploads").iterdir()) == []


@pytest.mark.parametrize("form", ["oci-archive", "docker-archive"])
def test_a_pull_into_an_archive_that_was_cut_off_fetches_only_the_rest(
    client: Client, platforms: Index, tmp_path: Path, form: str
) -> None:
    biggest = max(layer.length for layer in platforms.images[0].layers)
    with SmallRegistry() as registry:
        client.run("push", platforms.layout, f"{registry.address}/a:v1", "--quiet")
        registry.habits.blob = lambda content: content[:1_000_000] if len(content) == biggest else content
        arguments = ["pull", f"{registry.address}/a:v1", f"{form}:{tmp_path}/x.tar", "--platform", "linux/amd64"]
        client.run(*arguments, "--jobs", "1", "--retries", "0", code=1)
        assert [path.name for path in tmp_path.glob("x*")] == ["x.tar.partial"]
        registry.habits.blob = Habits().blob
        before = len(registry.requests)
        client.run(*arguments)
        gets = [
            headers for method, path, headers in registry.requests[before:] if method == "GET" and "/blobs/" in path
        ]
        assert [headers["range"] for headers in gets if "range" in headers] == ["bytes=1000000-"]
        assert [path.name for path in tmp_path.glob("x*")] == ["x.tar"]
        client.run("push", tmp_path / "x.tar", f"{registry.address}/a:v2", "--no-compression", "--format", "oci")
        # The image is the same; a docker-archive does not keep the manifest's own bytes.
        config = json.loads(registry.content.manifests["v2"][1])["config"]["digest"]
        assert config == platforms.images[0].image_id


def test_one_of_several_images_in_an_archive_is_chosen_by_its_tag(client: Client, small: Image, tmp_path: Path) -> None:
    """Layers that two images share are links in what older dockers save."""
    other = build_image(tmp_path, "another", layer_sizes=[1000], seed=77)
    both = tmp_path / "both.tar"
    with tarfile.open(both, "w") as archive:
        archive.add(other.layers[0].path, arcname="1/layer.tar")
        entries = []
        for image, names in ((other, ["1/layer.tar"]), (small, [])):
            _add(archive, f"{image.name}.json", image.config)
            for number, layer in enumerate(image.layers if image is small else ()):
                archive.add(layer.path, arcname=f"s{number}/real.tar")
                link = tarfile.TarInfo(f"s{number}/layer.tar")
                link.type, link.linkname = (tarfile.SYMTYPE, f"../s{number}/real.tar")
                archive.addfile(link)
                names.append(f"s{number}/layer.tar")
            entries.append(
                {"Config": f"{image.name}.json", "RepoTags": [f"{image.name}:of-{image.name}"], "Layers": names}
            )
        _add(archive, "manifest.json", json.dumps(entries).encode())
    with SmallRegistry() as registry:
        done = client.run("push", both, f"{registry.address}/a:v1", code=1)
        assert "say which by :TAG; there is another:of-another, small:of-small" in done.stderr
        client.run("push", f"docker-archive:{both}:of-small", f"{registry.address}/a:v1")
        assert small.image_id in registry.content.blobs
        assert other.image_id not in registry.content.blobs


def test_a_damaged_or_compressed_archive_is_refused(client: Client, small: Image, tmp_path: Path) -> None:
    content = bytearray(small.archive.read_bytes())
    with tarfile.open(small.archive) as archive:
        content[archive.getmember(small.layers[0].path.name).offset_data + 5000] ^= 1
    (tmp_path / "damaged.tar").write_bytes(content)
    (tmp_path / "packed.tar").write_bytes(b"\x1f\x8b" + bytes(2000))
    with SmallRegistry() as registry:
        for more in ([], ["--no-compression"]):
            done = client.run("push", tmp_path / "damaged.tar", f"{registry.address}/a:v1", *more, code=1)
            assert "is damaged" in done.stderr
        done = client.run("push", f"docker-archive:{tmp_path}/packed.tar", f"{registry.address}/a:v1", code=1)
        assert "gunzip" in done.stderr
        assert registry.content.blobs == {}


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))
