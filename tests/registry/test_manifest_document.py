"""What is read from manifests, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from registry_driver.manifest_document import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    ManifestInvalid,
    parse_manifest,
)
from tests.registry.documents import CONFIG_TYPE, LAYER_TYPE, descriptor, encoded, image, index, sha256

FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


def test_an_image_refers_to_its_config_and_layers_as_blobs() -> None:
    found = parse_manifest(encoded(image(b"c", b"1", b"2", b"1")), OCI_MANIFEST)
    assert found.media_type == OCI_MANIFEST
    assert found.blobs == (sha256(b"c"), sha256(b"1"), sha256(b"2"))
    assert (found.manifests, found.optional, found.subject) == ((), (), None)
    assert found.artifact_type == CONFIG_TYPE


def test_an_index_refers_to_its_children_as_manifests() -> None:
    found = parse_manifest(encoded(index(b"1", b"2")), OCI_INDEX)
    assert (found.media_type, found.manifests, found.blobs) == (OCI_INDEX, (sha256(b"1"), sha256(b"2")), ())
    assert found.artifact_type is None


@pytest.mark.parametrize("media_type", [OCI_MANIFEST, DOCKER_MANIFEST])
def test_both_image_types_are_taken(media_type: str) -> None:
    assert parse_manifest(encoded(image(b"c", mediaType=media_type)), media_type).media_type == media_type


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_LIST])
def test_both_list_types_are_taken(media_type: str) -> None:
    assert parse_manifest(encoded(index(b"1", mediaType=media_type)), media_type).media_type == media_type


def test_foreign_layers_need_not_be_there() -> None:
    document = image(b"c", b"1")
    document["layers"].append(descriptor(b"windows", FOREIGN) | {"urls": ["https://example.com/x"]})
    found = parse_manifest(encoded(document), OCI_MANIFEST)
    assert found.optional == (sha256(b"windows"),)
    assert sha256(b"windows") not in found.blobs


def test_a_layer_that_is_foreign_and_ordinary_must_be_there() -> None:
    document = image(b"c", b"1")
    document["layers"].append(descriptor(b"1", FOREIGN))
    found = parse_manifest(encoded(document), OCI_MANIFEST)
    assert (found.optional, found.blobs) == ((), (sha256(b"c"), sha256(b"1")))


def test_subject_artifact_type_and_annotations_are_read() -> None:
    document = image(
        b"{}",
        artifactType="application/vnd.example.sbom",
        subject=descriptor(b"subject", OCI_MANIFEST),
        annotations={"a": "ä", "b": ""},
    )
    found = parse_manifest(encoded(document), OCI_MANIFEST)
    assert found.subject == sha256(b"subject")
    assert found.artifact_type == "application/vnd.example.sbom"
    assert found.annotations == {"a": "ä", "b": ""}


def test_an_index_may_have_a_subject_and_a_type() -> None:
    document = index(artifactType="a/b", subject=descriptor(b"s", OCI_MANIFEST))
    found = parse_manifest(encoded(document), OCI_INDEX)
    assert (found.subject, found.artifact_type) == (sha256(b"s"), "a/b")


@pytest.mark.parametrize("content_type", ["", "application/json", "application/octet-stream", "application/json; q=1"])
def test_without_a_telling_content_type_the_manifest_says_its_type(content_type: str) -> None:
    assert parse_manifest(encoded(index()), content_type).media_type == OCI_INDEX
    assert parse_manifest(encoded(index(mediaType=None)), content_type).media_type == OCI_INDEX
    assert parse_manifest(encoded(image(b"c", mediaType=None)), content_type).media_type == OCI_MANIFEST


def test_parameters_of_the_content_type_are_ignored() -> None:
    assert parse_manifest(encoded(image(b"c")), OCI_MANIFEST + "; charset=utf-8").media_type == OCI_MANIFEST


def test_null_is_an_empty_list_of_layers() -> None:
    assert parse_manifest(encoded(image(b"c", layers=None)), OCI_MANIFEST).blobs == (sha256(b"c"),)


def test_whole_surrogate_pairs_are_characters() -> None:
    found = parse_manifest(encoded(image(b"c", annotations={"mood": "\U0001f600"}, custom="\\ud800")), OCI_MANIFEST)
    assert found.annotations == {"mood": "\U0001f600"}


def test_unknown_fields_are_of_no_concern() -> None:
    parse_manifest(encoded(image(b"c", custom={"deep": [1, 2.5, None], "Layers": 1})), OCI_MANIFEST)


def test_annotations_may_have_any_names() -> None:
    notes = {"Layers": "a", "layers": "b", "DIGEST": "c"}
    layer = descriptor(b"1", LAYER_TYPE) | {"annotations": notes}
    found = parse_manifest(encoded(image(b"c", annotations=notes, layers=[layer])), OCI_MANIFEST)
    assert found.annotations == notes


def test_types_of_layers_are_what_clients_say() -> None:
    layers = [descriptor(b"1", "text/plain; charset=utf-8"), descriptor(b"2", "data")]
    assert len(parse_manifest(encoded(image(b"c", layers=layers)), OCI_MANIFEST).blobs) == 3


def _without(document: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != key}


REFUSED: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"hello", OCI_MANIFEST),
    "nothing": (b"", OCI_MANIFEST),
    "no object": (b"[]", OCI_MANIFEST),
    "UTF-16": (encoded(image(b"c")).decode().encode("utf-16"), OCI_MANIFEST),
    "broken UTF-8": (encoded(image(b"c", x="?")).replace(b"?", b"\xff"), OCI_MANIFEST),
    "depth": (b'{"a":' + b"[" * 2_000_000, OCI_MANIFEST),
    "deep object": (b'{"a":' * 500_000, OCI_MANIFEST),
    "long number": (b'{"schemaVersion":' + b"9" * 100_000 + b"}", OCI_MANIFEST),
    "NaN": (b'{"schemaVersion": NaN}', OCI_MANIFEST),
    "schema 1": (encoded({"schemaVersion": 1, "name": "a", "fsLayers": []}), "application/json"),
    "schema 1 by type": (encoded(image(b"c")), "application/vnd.docker.distribution.manifest.v1+json"),
    "schema 1 signed": (encoded(image(b"c")), "application/vnd.docker.distribution.manifest.v1+prettyjws"),
    "no schemaVersion": (encoded(_without(image(b"c"), "schemaVersion")), OCI_MANIFEST),
    "schemaVersion true": (encoded(image(b"c", schemaVersion=True)), OCI_MANIFEST),
    "other type inside": (encoded(image(b"c")), DOCKER_MANIFEST),
    "unknown type": (encoded(image(b"c", mediaType="a/b")), "a/b"),
    "type is a number": (encoded(image(b"c", mediaType=5)), OCI_MANIFEST),
    "index in an image": (encoded(image(b"c", manifests=[])), OCI_MANIFEST),
    "image in an index": (encoded(index(layers=[])), OCI_INDEX),
    "no config": (encoded(_without(image(b"c"), "config")), OCI_MANIFEST),
    "no layers": (encoded(_without(image(b"c"), "layers")), OCI_MANIFEST),
    "no manifests": (encoded(_without(index(), "manifests")), OCI_INDEX),
    "layers is an object": (encoded(image(b"c", layers={})), OCI_MANIFEST),
    "layer is a string": (encoded(image(b"c", layers=["x"])), OCI_MANIFEST),
    "digest of another algorithm": (
        encoded(image(b"c", layers=[{"mediaType": LAYER_TYPE, "digest": "md5:" + "0" * 32, "size": 1}])),
        OCI_MANIFEST,
    ),
    "digest is a list": (
        encoded(image(b"c", layers=[{"mediaType": LAYER_TYPE, "digest": [], "size": 1}])),
        OCI_MANIFEST,
    ),
    "size below zero": (encoded(image(b"c", layers=[descriptor(b"1", LAYER_TYPE) | {"size": -1}])), OCI_MANIFEST),
    "size is a float": (encoded(image(b"c", layers=[descriptor(b"1", LAYER_TYPE) | {"size": 1.0}])), OCI_MANIFEST),
    "no media type": (encoded(image(b"c", layers=[descriptor(b"1", "")])), OCI_MANIFEST),
    "NUL in the media type": (encoded(image(b"c", layers=[descriptor(b"1", "a/b\0")])), OCI_MANIFEST),
    "subject is a digest": (encoded(image(b"c", subject=sha256(b"s"))), OCI_MANIFEST),
    "artifactType is a number": (encoded(image(b"c", artifactType=1)), OCI_MANIFEST),
    "artifactType with NUL": (encoded(image(b"c", artifactType="a/\0")), OCI_MANIFEST),
    "annotations is a list": (encoded(image(b"c", annotations=[])), OCI_MANIFEST),
    "annotation is a number": (encoded(image(b"c", annotations={"a": 1})), OCI_MANIFEST),
    "annotation with NUL": (encoded(image(b"c", annotations={"a": "\0"})), OCI_MANIFEST),
    "a name twice": (encoded(image(b"c"))[:-1] + b', "layers": []}', OCI_MANIFEST),
    "a type twice": (b'{"mediaType": "%s", ' % OCI_INDEX.encode() + encoded(image(b"c"))[1:], OCI_MANIFEST),
    "a name twice in what is unknown": (
        encoded(image(b"c"))[:-1] + b', "x": [{"a": 1, "a": 1}]}',
        OCI_MANIFEST,
    ),
    "layers in capitals": (encoded(image(b"c", LAYERS=[])), OCI_MANIFEST),
    "layers with a long s": (encoded(image(b"c", **{"layer\u017f": []})), OCI_MANIFEST),
    "manifests in an image, in capitals": (encoded(image(b"c", Manifests=[])), OCI_MANIFEST),
    "digest in capitals": (
        encoded(image(b"c", layers=[descriptor(b"1", LAYER_TYPE) | {"Digest": sha256(b"2")}])),
        OCI_MANIFEST,
    ),
    "half a surrogate": (encoded(image(b"c", annotations={"a": "\ud800"})), OCI_MANIFEST),
    "half a surrogate in a URL": (
        encoded(image(b"c", layers=[descriptor(b"1", LAYER_TYPE) | {"urls": ["http://a/\udfff"]}])),
        OCI_MANIFEST,
    ),
    "half a surrogate in a key of a list": (encoded(index(custom=[{"\udc00": 1}])), OCI_INDEX),
    "two halves in the wrong order": (encoded(image(b"c", custom="\udc00\ud800")), OCI_MANIFEST),
    "half a surrogate in capitals": (encoded(image(b"c", custom="?")).replace(b"?", b"\\uDBFF"), OCI_MANIFEST),
    "too many references": (
        encoded(image(b"c", layers=[descriptor(str(i).encode(), LAYER_TYPE) for i in range(10_001)])),
        OCI_MANIFEST,
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str) -> None:
    body, content_type = REFUSED[what]
    with pytest.raises(ManifestInvalid) as caught:
        parse_manifest(body, content_type)
    assert caught.value.message


def test_sizes_are_told_of_blobs_and_must_not_contradict_each_other() -> None:
    document = image(b"config", b"layer", b"layer")
    parsed = parse_manifest(encoded(document), OCI_MANIFEST)
    assert parsed.sizes == {sha256(b"config"): 6, sha256(b"layer"): 5}
    document["layers"][1]["size"] = 6
    with pytest.raises(ManifestInvalid, match="elsewhere"):
        parse_manifest(encoded(document), OCI_MANIFEST)


@pytest.mark.parametrize(
    ("body", "why"),
    [(b"{garbage", r"\(line 1, column 2\)"), (b"", r"\(line 1, column 1\)"), (b'{"a":"\xff"}', "UTF-8")],
)
def test_a_body_that_is_no_json_is_told_what_is_wrong_with_it(body: bytes, why: str) -> None:
    with pytest.raises(ManifestInvalid, match=f"not a JSON document: .*{why}"):
        parse_manifest(body, OCI_MANIFEST)
