"""containerd: pushes and pulls whole trees of documents, and content by itself."""

import uuid
from pathlib import Path

import pytest

from tests.clients.containerd import Containerd
from tests.clients.images import layout_blobs
from tests.clients.layouts import GZIP_TYPE, ZSTD_TYPE, Layout, document, gzipped, layer_tar, sha256, zstd
from tests.clients.targets import Target

pytestmark = [
    pytest.mark.clients,
    pytest.mark.timeout(900),
    pytest.mark.parametrize("target", ["embedded", "cluster"], indirect=True),
]

_CACHE_CONFIG_TYPE = "application/vnd.buildkit.cacheconfig.v0"


@pytest.mark.feature("containerd", "images push, pull: nested indexes, many platforms, gzip, zstd and empty layers")
def test_nested_indexes_come_back_with_all_they_lead_to(containerd: Containerd, target: Target, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "nested")
    images = []
    for seed, architecture in enumerate(("amd64", "arm64", "riscv64")):
        tars = [layer_tar(100_000, 80 + seed, "a"), layer_tar(5_000, 90 + seed, "b"), layer_tar(0, 0)]
        layers = [
            layout.add(gzipped(tars[0]), GZIP_TYPE),
            layout.add(zstd(tars[1]), ZSTD_TYPE),
            layout.add(gzipped(tars[2]), GZIP_TYPE),
        ]
        described = [(layer, sha256(tar)) for layer, tar in zip(layers, tars, strict=True)]
        images.append(layout.add_image(described, architecture))
    innermost = layout.add_index(images[2:])
    layout.tag("latest", layout.add_index([images[0], layout.add_index([images[1], innermost])]))

    reference = _push(containerd, target, layout)
    containerd.run("images", "pull", "--plain-http", "--all-platforms", reference)  # unpacks each of them, too
    assert layout_blobs(layout.directory) <= containerd.content()
    containerd.remove(reference)


@pytest.mark.feature("containerd", "images push, content fetch: a build cache, an index whose children are layers")
def test_a_build_cache_whose_children_are_layers_comes_back(
    containerd: Containerd, target: Target, tmp_path: Path
) -> None:
    layout = Layout(tmp_path / "cache")
    tar = layer_tar(200_000, 95)
    layers = [
        layout.add(gzipped(tar), GZIP_TYPE, annotations={"containerd.io/uncompressed": sha256(tar)}),
        layout.add(zstd(layer_tar(300_000, 96)), ZSTD_TYPE),
    ]
    records = {"layers": [{"blob": layer["digest"], "parent": -1} for layer in layers], "records": []}
    top = layout.add_index([*layers, layout.add(document(records), _CACHE_CONFIG_TYPE)])
    layout.tag("latest", top)

    reference = _push(containerd, target, layout)
    containerd.run("content", "fetch", "--plain-http", "--all-platforms", reference)
    assert layout_blobs(layout.directory) <= containerd.content()
    assert containerd.run("content", "get", top["digest"]).encode() == layout.read(top["digest"])
    containerd.remove(reference)


@pytest.mark.feature("containerd", "images push, pull: 127 layers, all of them at once")
def test_an_image_of_as_many_layers_as_there_can_be_comes_back(
    containerd: Containerd, target: Target, tmp_path: Path
) -> None:
    layout = Layout(tmp_path / "many")
    tars = [layer_tar(100, 100 + number, f"file-{number}") for number in range(127)]
    layout.tag("latest", layout.add_image([(layout.add(gzipped(tar), GZIP_TYPE), sha256(tar)) for tar in tars]))
    reference = _push(containerd, target, layout)
    containerd.run("content", "fetch", "--plain-http", reference)
    assert layout_blobs(layout.directory) <= containerd.content()
    containerd.remove(reference)


@pytest.mark.feature("containerd", "content fetch-object: a document by its tag")
def test_a_document_is_fetched_by_its_tag(containerd: Containerd, target: Target, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "one")
    tar = layer_tar(1_000, 97)
    top = layout.add_index([layout.add_image([(layout.add(gzipped(tar), GZIP_TYPE), sha256(tar))])])
    layout.tag("latest", top)
    reference = _push(containerd, target, layout)
    fetched = containerd.run("content", "fetch-object", "--plain-http", reference)
    assert fetched.encode() == layout.read(top["digest"])


def _push(containerd: Containerd, target: Target, layout: Layout) -> str:
    """Into a repository that is new, and away locally; the reference."""
    name = f"{target.address}/{uuid.uuid4().hex[:12]}/containerd"
    containerd.load(layout.archive(), name)
    containerd.push(f"{name}:latest")
    containerd.remove(f"{name}:latest")
    assert not layout_blobs(layout.directory) & containerd.content()
    return f"{name}:latest"
