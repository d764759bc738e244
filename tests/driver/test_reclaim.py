"""Taking back the space of deleted content, on a real MetaStore and MemoryChunkStores."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

import metaserver.migrations
from metaserver.core import LocalMetaStore
from metaserver.interface import MetaStore
from native.digest import Digest
from registry_driver.chunked import ChunkedDriver, DriverLimits
from registry_driver.reclaim import Reclaimer
from tests.imageserver.cluster import MemoryCluster, memory_cluster
from tests.imageserver.waiting import wait_until
from wire.buffers import BufferPool
from wire.database import create_engine, run_transaction
from wire.errors import Unavailable

CHUNK = 64 * 1024


@dataclass
class Setup:
    cluster: MemoryCluster
    engine: Engine
    meta: MetaStore
    driver: ChunkedDriver

    def put_blob(self, content: bytes) -> str:
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        source = io.BytesIO(content)
        progress = self.driver.write_stream(source, offset=0, digest=Digest("sha256"), record=lambda _: None)
        self.meta.put_blob("library/app", digest, progress.fragments)
        return digest


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    engine = create_engine(f"sqlite:///{tmp_path / 'meta.db'}")
    metaserver.migrations.upgrade(engine)
    cluster = memory_cluster(groups=2)
    images = cluster.image_store()
    driver = ChunkedDriver(images, BufferPool(CHUNK, 8), DriverLimits(CHUNK))
    yield Setup(cluster, engine, LocalMetaStore(engine), driver)
    driver.close()
    images.close()
    engine.dispose()


def test_chunks_of_deleted_content_are_deleted_and_forgotten_and_the_rest_stays(setup: Setup) -> None:
    kept = setup.put_blob(b"kept" * 50_000)
    gone = setup.put_blob(b"gone" * 50_000)
    before = setup.cluster.all_fids()
    setup.meta.delete_blob("library/app", gone)
    done = Reclaimer(setup.meta, setup.driver, min_age_s=0.0).run_once()
    assert (done.deleted, done.left, done.bytes_deleted) == (4, 0, 200_000)
    named = {f.fid for f in setup.meta.fragments(setup.meta.blob("library/app", kept).file_id)}
    assert setup.cluster.all_fids() == named
    assert named < before
    assert setup.meta.dead_fragments(0.0) == []
    assert Reclaimer(setup.meta, setup.driver, min_age_s=0.0).run_once().deleted == 0


def test_what_died_a_moment_ago_is_left_alone(setup: Setup) -> None:
    setup.meta.delete_blob("library/app", setup.put_blob(b"x" * 100_000))
    before = setup.cluster.all_fids()
    assert Reclaimer(setup.meta, setup.driver, min_age_s=3600.0).run_once().deleted == 0
    assert setup.cluster.all_fids() == before


def test_chunks_of_a_group_that_does_not_answer_stay_for_later_and_hold_nothing_else_up(setup: Setup) -> None:
    for number in range(30):
        setup.meta.delete_blob("library/app", setup.put_blob(b"%d" % number * 1000))
    setup.cluster.stores["g1m2"].kill()
    in_group_1 = len({f.fid for f in setup.meta.dead_fragments(0.0) if f.group_id == 1})
    assert 0 < in_group_1 < 30
    reclaimer = Reclaimer(setup.meta, setup.driver, min_age_s=0.0, batch_max=2)
    done = reclaimer.run_once()
    assert (done.deleted, done.left) == (30 - in_group_1, in_group_1)
    assert len(setup.meta.dead_fragments(0.0)) == in_group_1
    setup.cluster.stores["g1m2"].revive()
    assert reclaimer.run_once().deleted == in_group_1
    assert setup.cluster.all_fids() == set()


def test_several_reclaimers_at_once_do_no_harm(setup: Setup) -> None:
    kept = setup.put_blob(b"kept" * 100_000)
    for number in range(40):
        setup.meta.delete_blob("library/app", setup.put_blob(b"%d" % number * 1000))
    errors: list[Exception] = []

    def run() -> None:
        try:
            Reclaimer(setup.meta, setup.driver, min_age_s=0.0, batch_max=5).run_once()
        except Exception as error:  # noqa: BLE001 - shown by the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not errors, errors[0]
    assert setup.meta.dead_fragments(0.0) == []
    blob = setup.meta.blob("library/app", kept)
    fragments = setup.meta.fragments(blob.file_id)
    assert setup.cluster.all_fids() == {f.fid for f in fragments}
    got = b"".join(bytes(view) for view in setup.driver.read_stream(fragments, 0, blob.size))
    assert got == b"kept" * 100_000


def test_abandoned_uploads_are_ended_and_their_chunks_go_while_the_others_stay(setup: Setup) -> None:
    fids = {}
    for upload_id in ("used", "left", "left too"):
        source = io.BytesIO(upload_id.encode() * 50_000)
        progress = setup.driver.write_stream(source, offset=0, digest=Digest("sha256"), record=lambda _: None)
        setup.meta.create_upload("library/app", upload_id, b"")
        setup.meta.advance_upload("library/app", upload_id, 0, progress.fragments, b"")
        fids[upload_id] = {fragment.fid for fragment in progress.fragments}
    a_day_ago = text("UPDATE uploads SET advanced_s = advanced_s - 86400 WHERE upload_id LIKE 'left%'")
    run_transaction(setup.engine, lambda connection: connection.execute(a_day_ago) and None)
    Reclaimer(setup.meta, setup.driver, min_age_s=0.0).run_once()
    Reclaimer(setup.meta, setup.driver, min_age_s=0.0, upload_expires_s=100_000.0).run_once()
    assert setup.cluster.all_fids() == set().union(*fids.values())
    Reclaimer(setup.meta, setup.driver, min_age_s=0.0, upload_expires_s=80_000.0).run_once()
    assert setup.cluster.all_fids() == fids["used"]
    assert setup.meta.upload("library/app", "used").offset == 200_000


def test_the_thread_lives_on_after_a_failed_round(setup: Setup) -> None:
    setup.meta.delete_blob("library/app", setup.put_blob(b"x" * 100_000))
    failures = [Unavailable("the database is away"), ValueError("a defect")]
    meta = setup.meta
    listed = meta.dead_fragments

    def dead_fragments(min_age_s: float, limit: int = 1000) -> list[object]:
        if failures:
            raise failures.pop()
        return list(listed(min_age_s, limit))

    meta.dead_fragments = dead_fragments  # type: ignore[method-assign, assignment]
    reclaimer = Reclaimer(meta, setup.driver, min_age_s=0.0, interval_s=0.02)
    reclaimer.start()
    try:
        wait_until(lambda: setup.cluster.all_fids() == set())
    finally:
        reclaimer.close()
