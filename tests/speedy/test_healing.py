"""What lies on the disk goes bad under a running server; pushing the same image again, as docker does it (it asks first
what is there already), makes it whole."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.speedy.embedded import EmbeddedServer
from tests.speedy.pushing import Pusher, digest_of, expect

MIB = 1 << 20


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    running = EmbeddedServer(tmp_path / "data", SPEEDY_REGISTRY_RECLAIM_AFTER_S="0")
    try:
        running.wait_ready()
        yield running
    finally:
        running.kill()


def flip(data: Path, content: bytes) -> int:
    """Change one byte wherever a volume holds `content`; in how many places it did."""
    flipped = 0
    for path in sorted((data / "chunks").rglob("*.dat")):
        with path.open("r+b") as volume:
            held = volume.read()
            place = held.find(content)
            while place >= 0:
                volume.seek(place + 3)
                volume.write(bytes([content[3] ^ 1]))
                flipped += 1
                place = held.find(content, place + 1)
    return flipped


def test_a_layer_whose_only_copy_went_bad_is_healed_by_pushing_the_image_again(server: EmbeddedServer) -> None:
    pusher = Pusher(server.url)
    layer = random.Random(1).randbytes(6 * MIB)
    digest = digest_of(layer)
    image = pusher.push_image("team/app", "v1", [layer])
    expect(pusher.send("POST", f"/v2/team/base/blobs/uploads/?mount={digest}&from=team/app", b""), 201)
    assert flip(server.data, layer[5 * MIB : 5 * MIB + 64]) == 1
    path = f"/v2/team/app/blobs/{digest}"
    expect(pusher.send("HEAD", path), 200)  # existence is a question to metadata: nobody has looked yet
    with pytest.raises(requests.exceptions.ChunkedEncodingError):  # the first bytes were good and are on their way
        pusher.send("GET", path)
    # What docker does from here on: ask, try to mount, upload.
    for repository in ("team/app", "team/base"):
        expect(pusher.send("HEAD", f"/v2/{repository}/blobs/{digest}"), 404)
    expect(pusher.send("POST", f"/v2/team/app/blobs/uploads/?mount={digest}&from=team/base", b""), 202)
    assert pusher.push_image("team/app", "v1", [layer]) == image
    expect(pusher.send("HEAD", path), 200)
    assert pusher.pull_image("team/app", "v1") == image
    assert pusher.pull_blob("team/base", digest) == layer


def test_a_damaged_manifest_is_healed_by_pushing_the_image_again(server: EmbeddedServer) -> None:
    pusher = Pusher(server.url)
    image = pusher.push_image("team/app", "v1", [b"layer"])
    expect(pusher.send("GET", "/v2/team/app/manifests/v1"), 200)
    assert flip(server.data, b'{"schemaVersion"') == 1
    server.stop()
    again = EmbeddedServer(server.data)  # with nothing cached
    try:
        again.wait_ready()
        pusher = Pusher(again.url)
        expect(pusher.send("GET", "/v2/team/app/manifests/v1"), 503)
        assert pusher.push_image("team/app", "v1", [b"layer"]) == image
        assert pusher.pull_image("team/app", "v1") == image
    finally:
        again.kill()
