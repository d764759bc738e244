"""What happens to a pushed layer on its way through every room."""

from __future__ import annotations

import os
import uuid

import pytest
import requests

from chunkserver.interface import ChunkInfo
from speedy.cluster import LocalCluster
from tests.cluster.conftest import CHUNK_BYTES
from tests.cluster.inspection import bytes_sent, chunk_store, meta_store
from tests.speedy.pushing import Pusher, digest_of, expect
from wire.errors import ChunkNotFound

LAYER_BYTES = 10 * CHUNK_BYTES + 12345


def test_every_fragment_of_a_layer_is_on_all_replicas_of_one_group_and_nowhere_else(
    cluster: LocalCluster, pusher: Pusher
) -> None:
    layer = os.urandom(LAYER_BYTES)
    digest = pusher.push_blob("follow/layer", layer)
    with meta_store(cluster) as meta:
        fragments = meta.fragments(meta.blob("follow/layer", digest).file_id)
    assert [fragment.offset for fragment in fragments] == [sum(f.length for f in fragments[:i]) for i in range(11)]
    assert sum(fragment.length for fragment in fragments) == LAYER_BYTES
    assert len({fragment.fid for fragment in fragments}) == len(fragments)
    groups = {group.group_id: group for group in cluster.group_table().groups}
    for fragment in fragments:
        expected = layer[fragment.offset : fragment.offset + fragment.length]
        assert len(groups[fragment.group_id].members) == 3
        for group in groups.values():
            for member in group.members:
                with chunk_store(cluster, member.url) as store:
                    if group.group_id != fragment.group_id:
                        with pytest.raises(ChunkNotFound):
                            store.info(fragment.fid)
                        continue
                    info: ChunkInfo = store.info(fragment.fid)
                    assert (info.length, info.crc32c) == (fragment.length, fragment.crc32c)
                    buffer = bytearray(fragment.length)
                    store.read_into(fragment.fid, 0, buffer)
                    assert buffer == expected


def test_each_request_of_an_upload_reaches_another_registry_and_the_closing_put_reads_no_blob_bytes(
    cluster: LocalCluster,
) -> None:
    first, second = (registry.url for registry in cluster.plan().of("registry"))
    layer = os.urandom(LAYER_BYTES)
    half = LAYER_BYTES // 2
    location = expect(Pusher(first).send("POST", "/v2/two/fronts/blobs/uploads/"), 202).headers["Location"]
    location = expect(Pusher(second).send("PATCH", location, iter([layer[:half]])), 202).headers["Location"]
    answer = expect(Pusher(first).send("PATCH", location, iter([layer[half:]])), 202)
    assert answer.headers["Range"] == f"0-{LAYER_BYTES - 1}"
    stores = (*cluster.plan().of("chunkserver"), *cluster.plan().of("imageserver"))
    before = bytes_sent(stores)
    digest = digest_of(layer)
    expect(Pusher(second).send("PUT", f"{answer.headers['Location']}?digest={digest}"), 201)
    assert bytes_sent(stores) - before < CHUNK_BYTES / 2  # metrics and health, but no chunk
    before = bytes_sent(stores)
    assert Pusher(first).pull_blob("two/fronts", digest) == layer
    assert bytes_sent(stores) - before >= 2 * LAYER_BYTES  # so the counter does count them


def test_an_image_pushed_through_one_registry_is_pulled_through_the_other(cluster: LocalCluster) -> None:
    first, second = (registry.url for registry in cluster.plan().of("registry"))
    digest = Pusher(first).push_image("a/b", "v1", [os.urandom(3 * CHUNK_BYTES + 1), b"", b"x"])
    assert Pusher(second).pull_image("a/b", "v1") == digest
    assert Pusher(second).pull_image("a/b", digest) == digest


def test_one_request_id_is_found_in_the_logs_of_all_rooms_that_took_part(cluster: LocalCluster) -> None:
    request_id = f"follow-{uuid.uuid4().hex}"
    registry = cluster.plan().of("registry")[0]
    pusher = Pusher(registry.url, headers={"X-Request-Id": request_id})
    digest = pusher.push_blob("follow/id", os.urandom(2 * CHUNK_BYTES))
    assert pusher.pull_blob("follow/id", digest)
    rooms = {
        process.room
        for process in cluster.plan().processes
        if request_id in cluster.log_file(process.name).read_text(errors="replace")
    }
    assert rooms == {"registry", "imageserver", "chunkserver", "metaserver"}  # the master is never on the data path


@pytest.mark.parametrize("room", ["chunkmaster", "metaserver", "chunkserver", "imageserver"])
def test_a_room_answers_401_without_the_key_and_tells_its_health_to_everybody(cluster: LocalCluster, room: str) -> None:
    process = next(process for process in cluster.plan().processes if process.room == room)
    paths = ("/v1/groups", "/v1/stat", "/v1/chunks/1/1", "/v1/check")
    answers = [requests.get(process.url + path, timeout=10).status_code for path in paths]
    assert 401 in answers
    assert set(answers) <= {401, 404, 405}  # not every room has all of these paths
    for path in ("/healthz", "/readyz", "/metrics"):
        assert requests.get(process.url + path, timeout=10).status_code == 200
