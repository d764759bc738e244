"""Registry semantics in process: how often metadata is asked, what becomes of failed pushes' chunks, caches, limits."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from metaserver import migrations
from metaserver.core import LocalMetaStore
from metaserver.interface import Fragment, MetaStore
from registry_driver.chunked import ChunkedDriver, DriverLimits
from registry_driver.driver import ByteSource
from registry_driver.manifest_document import OCI_MANIFEST
from registry_driver.names import DigestInvalid
from registry_driver.reclaim import Reclaimer
from registry_driver.recording import BytesSource
from registry_driver.registry import Registry, RegistryLimits, UploadInvalid
from tests.registry.documents import descriptor, encoded, image, sha256
from tests.registry.memory_images import MemoryImageStore
from tests.wire.serving import wait_until
from wire.buffers import BufferPool
from wire.database import create_engine
from wire.errors import (
    BlobUnknown,
    ChunkDamaged,
    ChunkUnreadable,
    DigestMismatch,
    InternalError,
    ManifestUnknown,
    ReferencesMissing,
    StorageFull,
    TruncatedBody,
    Unavailable,
    UploadConflict,
    UploadUnknown,
)

CHUNK = 64 * 1024
CONTENT = os.urandom(5 * CHUNK + 100)
DIGEST = sha256(CONTENT)


class CountingMeta:
    """A MetaStore that counts its calls, and fails those it is told to, before or after they have taken effect."""

    def __init__(self, inner: MetaStore) -> None:
        self._inner = inner
        self.calls: Counter[str] = Counter()
        self.lose_answer_of: str | None = None
        self.replace: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            self.calls[name] += 1
            if name in self.replace:
                return self.replace[name](*arguments, **named)
            answer = method(*arguments, **named)
            if self.lose_answer_of == name:
                raise Unavailable("the answer was lost")
            return answer

        return counted

    def taken(self) -> dict[str, int]:
        """Calls since the last time this was asked."""
        calls, self.calls = dict(self.calls), Counter()
        return calls


class CutSource:
    """A sender that stops after `body`."""

    def __init__(self, body: bytes) -> None:
        self._inner = BytesSource(body)

    def readinto(self, buffer: memoryview) -> int:
        count = self._inner.readinto(buffer)
        if count == 0:
            raise TruncatedBody("cut")
        return count


@dataclass(slots=True)
class Bench:
    registry: Registry
    meta: CountingMeta
    images: MemoryImageStore
    directory: Path
    driver: ChunkedDriver

    def chunks(self) -> int:
        path = self.directory / "chunks"
        return int(path.read_text()) if path.exists() else 0

    def reads(self) -> int:
        path = self.directory / "reads"
        return int(path.read_text()) if path.exists() else 0

    def with_limits(self, **limits: int) -> Registry:
        return Registry(self.meta, self.driver, self.images.check, replace(RegistryLimits(), **limits))

    def read(self, digest: str, offset: int = 0, length: int | None = None) -> bytes:
        blob = self.registry.blob("a", digest)
        with closing(self.registry.read_blob("a", blob, offset, blob.size if length is None else length)) as stream:
            return b"".join(bytes(view) for view in stream)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    engine = create_engine(f"sqlite:///{tmp_path}/meta.db")
    migrations.upgrade(engine)
    meta = CountingMeta(LocalMetaStore(engine))
    images = MemoryImageStore(tmp_path)
    driver = ChunkedDriver(images, BufferPool(CHUNK, 16), DriverLimits(CHUNK, record_bytes=2 * CHUNK))
    yield Bench(Registry(meta, driver, images.check), meta, images, tmp_path, driver)
    driver.close()
    engine.dispose()


class TestMetadataCalls:
    """Each is a round trip in a cluster."""

    def test_of_a_small_push_in_one_request(self, bench: Bench) -> None:
        bench.registry.push_blob("a", sha256(b"x"), BytesSource(b"x"))
        assert bench.meta.taken() == {"put_blob": 1}

    def test_of_a_small_push_in_post_and_put(self, bench: Bench) -> None:
        upload = bench.registry.open_upload("a", "sha256")
        assert bench.meta.taken() == {"create_upload": 1}
        bench.registry.finish_upload("a", upload.upload_id, sha256(b"x"), BytesSource(b"x"), None)
        assert bench.meta.taken() == {"upload": 1, "finish_upload": 1}

    def test_of_a_patch_and_a_closing_put(self, bench: Bench) -> None:
        upload = bench.registry.open_upload("a", "sha256")
        bench.meta.taken()
        assert bench.registry.append("a", upload.upload_id, BytesSource(b"x" * 100), None) == 100
        assert bench.meta.taken() == {"upload": 1, "advance_upload": 1}
        bench.registry.finish_upload("a", upload.upload_id, sha256(b"x" * 100), None, None)
        assert bench.meta.taken() == {"upload": 1, "finish_upload": 1}

    def test_of_an_empty_patch(self, bench: Bench) -> None:
        upload = bench.registry.open_upload("a", "sha256")
        bench.meta.taken()
        assert bench.registry.append("a", upload.upload_id, BytesSource(b""), None) == 0
        assert bench.meta.taken() == {"upload": 1}

    def test_of_reading_a_blob(self, bench: Bench) -> None:
        bench.registry.push_blob("a", DIGEST, BytesSource(CONTENT))
        bench.meta.taken()
        assert bench.read(DIGEST) == CONTENT
        assert bench.meta.taken() == {"blob": 1, "fragments": 1}
        assert bench.read(DIGEST) == CONTENT
        assert bench.meta.taken() == {"blob": 1}

    def test_of_a_manifest(self, bench: Bench) -> None:
        bench.registry.push_blob("a", sha256(b"{}"), BytesSource(b"{}"))
        bench.meta.taken()
        body = encoded(image(b"{}"))
        bench.registry.put_manifest("a", body, OCI_MANIFEST, digest=None, tags=("v1", "v2"))
        assert bench.meta.taken() == {"put_manifest": 1}
        assert bench.registry.read_manifest("a", bench.registry.manifest("a", "v1")) == body
        assert bench.meta.taken() == {"manifest": 1}


class TestPushInOneRequest:
    def test_of_a_large_blob_is_recorded_while_it_runs(self, bench: Bench) -> None:
        large = CONTENT * 8  # many more chunks than can be in flight: some are durable before the last one comes
        bench.registry.push_blob("a", sha256(large), BytesSource(large))
        calls = bench.meta.taken()
        assert calls["create_upload"] == 1
        assert calls["advance_upload"] >= 1
        assert calls["finish_upload"] == 1
        assert bench.read(sha256(large)) == large

    @pytest.mark.parametrize("size", [10, len(CONTENT)])
    def test_under_a_wrong_digest_leaves_nothing(self, bench: Bench, size: int) -> None:
        with pytest.raises(DigestMismatch):
            bench.registry.push_blob("a", sha256(b"other"), BytesSource(CONTENT[:size]))
        self.check_nothing_is_left(bench)

    @pytest.mark.parametrize("size", [10, len(CONTENT)])
    def test_that_is_cut_leaves_nothing(self, bench: Bench, size: int) -> None:
        with pytest.raises(TruncatedBody):
            bench.registry.push_blob("a", sha256(CONTENT[:size]), CutSource(CONTENT[:size]))
        self.check_nothing_is_left(bench)

    def check_nothing_is_left(self, bench: Bench) -> None:
        for digest in (DIGEST, sha256(b"other"), sha256(CONTENT[:10])):
            with pytest.raises(BlobUnknown):
                bench.registry.blob("a", digest)
        dead = bench.meta.dead_fragments(0.0)
        assert bench.chunks() == len(dead)  # those of a recorded session wait for the reclaimer, the others are gone

    def test_whose_answer_was_lost_keeps_its_chunks(self, bench: Bench) -> None:
        bench.meta.lose_answer_of = "put_blob"
        with pytest.raises(Unavailable):
            bench.registry.push_blob("a", sha256(b"x"), BytesSource(b"x"))
        bench.meta.lose_answer_of = None
        assert bench.read(sha256(b"x")) == b"x"  # it was committed; deleting the chunk would have lost it

    def test_asks_first_whether_there_is_room(self, bench: Bench) -> None:
        (bench.directory / "full").touch()
        source = BytesSource(b"x")
        with pytest.raises(StorageFull):
            bench.registry.push_blob("a", sha256(b"x"), source)
        with pytest.raises(StorageFull):
            bench.registry.open_upload("a", "sha256")
        assert source.readinto(memoryview(bytearray(1))) == 1
        assert bench.meta.taken() == {}


class TestUploads:
    def test_any_front_end_continues_any_upload(self, bench: Bench) -> None:
        other = bench.with_limits()
        upload = bench.registry.open_upload("a", "sha256")
        at = 0
        for number, size in enumerate((1, 63, 64, 65, 1000, CHUNK, 3 * CHUNK)):
            front = (bench.registry, other)[number % 2]
            at = front.append("a", upload.upload_id, BytesSource(CONTENT[at : at + size]), at)
        other.finish_upload("a", upload.upload_id, DIGEST, BytesSource(CONTENT[at:]), at)
        assert bench.reads() == 0
        assert bench.read(DIGEST) == CONTENT

    def test_a_wrong_digest_ends_the_session_and_frees_its_chunks(self, bench: Bench) -> None:
        upload = bench.registry.open_upload("a", "sha256")
        bench.registry.append("a", upload.upload_id, BytesSource(CONTENT), None)
        before = bench.chunks()
        with pytest.raises(DigestMismatch) as caught:
            bench.registry.finish_upload("a", upload.upload_id, sha256(b"other"), BytesSource(b"more"), None)
        assert caught.value.details["computed"] == sha256(CONTENT + b"more")
        with pytest.raises(UploadUnknown):
            bench.registry.upload("a", upload.upload_id)
        assert bench.chunks() == before  # the unrecorded last one is gone already
        assert len(bench.meta.dead_fragments(0.0)) == before

    def test_an_upload_too_large_to_be_hashed_again_says_what_to_do(self, bench: Bench) -> None:
        registry = bench.with_limits(rehash_bytes_max=1000)
        upload = registry.open_upload("a", "sha256")
        registry.append("a", upload.upload_id, BytesSource(CONTENT), None)
        with pytest.raises(DigestInvalid, match=r"\?digest-algorithm=sha512"):
            registry.finish_upload("a", upload.upload_id, "sha512:" + "0" * 128, None, None)
        assert registry.finish_upload("a", upload.upload_id, DIGEST, None, None).digest == DIGEST

    def test_an_upload_of_too_many_pieces_is_refused(self, bench: Bench) -> None:
        registry = bench.with_limits(upload_fragments_max=3)
        upload = registry.open_upload("a", "sha256")
        for at in range(3):
            registry.append("a", upload.upload_id, BytesSource(b"x"), at)
        with pytest.raises(UploadInvalid):
            registry.append("a", upload.upload_id, BytesSource(b"x"), 3)

    def test_a_damaged_digest_state_is_a_fault_of_ours(self, bench: Bench) -> None:
        upload = bench.registry.open_upload("a", "sha256")
        bench.registry.append("a", upload.upload_id, BytesSource(b"x"), None)
        damaged = replace(bench.registry.upload("a", upload.upload_id), digest_state=b"garbage")
        bench.meta.replace["upload"] = lambda *_: damaged
        with pytest.raises(InternalError):
            bench.registry.append("a", upload.upload_id, BytesSource(b"x"), None)

    def test_a_state_that_covers_other_bytes_is_a_fault_of_ours(self, bench: Bench) -> None:
        upload = bench.registry.open_upload("a", "sha256")
        bench.registry.append("a", upload.upload_id, BytesSource(b"x"), None)
        ahead = replace(bench.registry.upload("a", upload.upload_id), digest_state=upload.digest_state)
        bench.meta.replace["upload"] = lambda *_: ahead
        with pytest.raises(InternalError):
            bench.registry.finish_upload("a", upload.upload_id, sha256(b"x"), None, None)


class TestLostRaces:
    """Somebody else advances or ends the session while a request of it brings bytes."""

    @pytest.fixture
    def slow(self, bench: Bench) -> Iterator[Registry]:
        """Records nothing before the end of a request."""
        driver = ChunkedDriver(bench.images, BufferPool(CHUNK, 16), DriverLimits(CHUNK, record_s=1000.0))
        yield Registry(bench.meta, driver, bench.images.check)
        driver.close()

    def beside(self, meanwhile: Callable[[], object]) -> ByteSource:
        """CONTENT, with `meanwhile` done before its last byte."""

        class Source(BytesSource):
            def readinto(self, buffer: memoryview) -> int:
                if len(self._left) == 1:
                    meanwhile()
                return super().readinto(buffer[: max(1, len(self._left) - 1)])

        return Source(CONTENT)

    @pytest.mark.parametrize("closing", [False, True])
    @pytest.mark.parametrize("ended", [False, True])
    def test_the_loser_leaves_no_chunk(self, bench: Bench, slow: Registry, closing: bool, ended: bool) -> None:
        upload_id = bench.registry.open_upload("a", "sha256").upload_id

        def meanwhile() -> None:
            if ended:
                bench.registry.cancel_upload("a", upload_id)
            else:
                bench.registry.append("a", upload_id, BytesSource(b"first"), None)

        source = self.beside(meanwhile)
        lose = partial(slow.append, "a", upload_id, source, None)
        if closing:
            lose = partial(slow.finish_upload, "a", upload_id, DIGEST, source, None)
        with pytest.raises(UploadUnknown if ended else UploadConflict):
            lose()
        Reclaimer(bench.meta, bench.driver, min_age_s=0.0).run_once()
        wait_until(lambda: bench.chunks() == (0 if ended else 1), 20.0, "the end of the loser's chunks")
        if not ended:
            assert bench.registry.finish_upload("a", upload_id, sha256(b"first"), None, None).size == 5

    def test_a_wrong_digest_that_ends_the_session_under_a_running_request_leaves_no_chunk(
        self, bench: Bench, slow: Registry
    ) -> None:
        upload_id = bench.registry.open_upload("a", "sha256").upload_id

        def close_wrongly() -> None:
            with pytest.raises(DigestMismatch):
                bench.registry.finish_upload("a", upload_id, sha256(b"other"), None, None)

        with pytest.raises(UploadUnknown):
            slow.append("a", upload_id, self.beside(close_wrongly), None)
        Reclaimer(bench.meta, bench.driver, min_age_s=0.0).run_once()
        wait_until(lambda: bench.chunks() == 0, 20.0, "the end of the chunks")


class TestReading:
    def test_a_list_that_has_grown_old_is_asked_for_once_more(self, bench: Bench) -> None:
        bench.registry.push_blob("a", DIGEST, BytesSource(CONTENT))
        blob = bench.registry.blob("a", DIGEST)
        fresh = bench.meta.fragments(blob.file_id)
        # Every chunk but the first two has moved to another fid after the list was read.
        stale = (*fresh[:2], *(replace(fragment, fid=fragment.fid + 1_000_000) for fragment in fresh[2:]))
        bench.meta.replace["fragments"] = lambda _: stale
        with closing(bench.registry.read_blob("a", blob, 0, CHUNK)) as stream:
            assert b"".join(bytes(view) for view in stream) == CONTENT[:CHUNK]
        del bench.meta.replace["fragments"]
        assert bench.read(DIGEST) == CONTENT
        assert bench.read(DIGEST, 4 * CHUNK, 50) == CONTENT[4 * CHUNK :][:50]

    def test_what_is_gone_for_good_is_an_error(self, bench: Bench) -> None:
        bench.registry.push_blob("a", DIGEST, BytesSource(CONTENT))
        assert bench.read(DIGEST) == CONTENT
        (bench.directory / "unreadable").touch()
        with pytest.raises(Unavailable):
            bench.read(DIGEST)

    def test_a_blob_deleted_since_it_was_found_is_unknown(self, bench: Bench) -> None:
        bench.registry.push_blob("a", DIGEST, BytesSource(CONTENT))
        blob = bench.registry.blob("a", DIGEST)
        bench.registry.delete_blob("a", DIGEST)
        with pytest.raises(BlobUnknown):
            bench.registry.read_blob("a", blob, 0, blob.size)

    def test_fragments_that_do_not_make_the_file_are_not_served(self, bench: Bench) -> None:
        bench.registry.push_blob("a", DIGEST, BytesSource(CONTENT))
        blob = bench.registry.blob("a", DIGEST)
        bench.meta.replace["fragments"] = lambda _: ()
        with pytest.raises(InternalError):
            bench.registry.read_blob("a", blob, 0, blob.size)

    def damage(self, bench: Bench, file_id: int, *numbers: int) -> None:
        """No copy of these fragments' chunks is good any more."""
        fragments = bench.meta.fragments(file_id)
        (bench.directory / "damaged").write_text(" ".join(str(fragments[number].fid) for number in numbers))

    @pytest.mark.parametrize("number", [0, 3])
    def test_a_blob_found_damaged_is_pushed_again_and_heals_everywhere(self, bench: Bench, number: int) -> None:
        bench.registry.push_blob("a", DIGEST, BytesSource(CONTENT))
        bench.registry.mount("b", DIGEST, "a")
        self.damage(bench, bench.registry.whole_blob("a", DIGEST).file_id, number)
        assert bench.registry.whole_blob("a", DIGEST).size == len(CONTENT)  # nobody has looked yet
        with pytest.raises(ChunkDamaged):
            bench.read(DIGEST)
        for repository in ("a", "b"):
            with pytest.raises(BlobUnknown):
                bench.registry.whole_blob(repository, DIGEST)
        assert bench.registry.mount("c", DIGEST, "a") is None
        assert bench.read(DIGEST, 2 * CHUNK, 10) == CONTENT[2 * CHUNK :][:10]  # what is good is still given
        bench.registry.push_blob("c", DIGEST, BytesSource(CONTENT))
        for repository in ("a", "b", "c"):
            assert not bench.registry.whole_blob(repository, DIGEST).damaged
        assert bench.read(DIGEST) == CONTENT

    def test_a_blob_that_cannot_be_read_just_now_is_not_called_damaged(self, bench: Bench) -> None:
        bench.registry.push_blob("a", DIGEST, BytesSource(CONTENT))
        (bench.directory / "unreadable").touch()
        with pytest.raises(ChunkUnreadable):
            bench.read(DIGEST)
        assert not bench.registry.whole_blob("a", DIGEST).damaged

    def test_a_download_goes_on_where_it_is_when_the_blob_is_pushed_again_and_the_old_chunks_go(
        self, bench: Bench
    ) -> None:
        bench.registry.push_blob("a", DIGEST, BytesSource(CONTENT))
        blob = bench.registry.blob("a", DIGEST)
        got = b""
        with closing(bench.registry.read_blob("a", blob, 0, blob.size)) as stream:
            got += bytes(next(stream))
            bench.registry.push_blob("b", DIGEST, BytesSource(CONTENT))
            dead = bench.meta.dead_fragments(0.0)
            assert bench.driver.delete_fragments(dead) == []
            bench.meta.forget_dead_fragments([fragment.fid for fragment in dead])
            for view in stream:
                got += bytes(view)
        assert got == CONTENT
        # One that found its row just before reads the new file from the start.
        with closing(bench.registry.read_blob("a", blob, 0, blob.size)) as stream:
            assert b"".join(bytes(view) for view in stream) == CONTENT

    def test_a_damaged_manifest_is_healed_by_pushing_it_again(self, bench: Bench) -> None:
        bench.registry.push_blob("a", sha256(b"{}"), BytesSource(b"{}"))
        body = encoded(image(b"{}"))
        before, _ = bench.registry.put_manifest("a", body, OCI_MANIFEST, digest=None, tags=("v1",))
        self.damage(bench, before.file_id, 0)
        with pytest.raises(ChunkDamaged):
            bench.with_limits().read_manifest("a", before)  # with nothing cached
        bench.registry.put_manifest("a", body, OCI_MANIFEST, digest=None, tags=("v1",))
        for found in (before, bench.registry.manifest("a", "v1")):
            assert bench.with_limits().read_manifest("a", found) == body


class TestManifests:
    def push(self, bench: Bench) -> bytes:
        bench.registry.push_blob("a", sha256(b"{}"), BytesSource(b"{}"))
        body = encoded(image(b"{}"))
        bench.registry.put_manifest("a", body, OCI_MANIFEST, digest=None, tags=("v1",))
        return body

    def test_a_manifest_of_many_chunks_is_read_by_another_front_end(self, bench: Bench) -> None:
        bench.registry.push_blob("a", sha256(b"{}"), BytesSource(b"{}"))
        body = encoded(image(b"{}", annotations={"large": os.urandom(10 * CHUNK).hex()}))
        bench.registry.put_manifest("a", body, OCI_MANIFEST, digest=None, tags=("v1",))
        other = bench.with_limits()  # nothing cached
        assert other.read_manifest("a", other.manifest("a", "v1")) == body

    def test_bytes_from_the_store_are_hashed_again(self, bench: Bench) -> None:
        body = self.push(bench)
        other = bench.with_limits()  # nothing cached
        assert other.read_manifest("a", other.manifest("a", "v1")) == body
        # Another file's fragments of the same length: every chunk verifies, and the content is another.
        stored = self.stored(bench, b"x" * len(body))
        bench.meta.replace["fragments"] = lambda _: stored
        third = bench.with_limits()
        with pytest.raises(InternalError):
            third.read_manifest("a", third.manifest("a", "v1"))
        del bench.meta.replace["fragments"]

    def stored(self, bench: Bench, content: bytes) -> tuple[Fragment, ...]:
        digest = sha256(content)
        bench.registry.push_blob("a", digest, BytesSource(content))
        return tuple(bench.meta.fragments(bench.registry.blob("a", digest).file_id))

    def test_a_cached_manifest_needs_no_chunk_but_must_still_exist(self, bench: Bench) -> None:
        body = self.push(bench)
        (bench.directory / "unreadable").touch()
        assert bench.registry.read_manifest("a", bench.registry.manifest("a", "v1")) == body
        bench.registry.delete_reference("a", sha256(body))
        with pytest.raises(ManifestUnknown):
            bench.registry.manifest("a", "v1")

    def test_another_manifest_in_a_file_of_the_same_number_is_not_mixed_up_with_the_first(self, bench: Bench) -> None:
        """As in a database restored from a backup, which gives the numbers of later files out again."""
        before = bench.registry.manifest("a", sha256(self.push(bench)))
        body = encoded(image(b"{}", annotations={"restored": "yes"}))
        after, _ = bench.registry.put_manifest("a", body, OCI_MANIFEST, digest=None, tags=("v1",))
        assert bench.registry.read_manifest("a", replace(after, file_id=before.file_id)) == body

    def test_a_refused_manifest_leaves_its_chunks_to_the_reclaimer(self, bench: Bench) -> None:
        body = encoded(image(b"absent"))
        with pytest.raises(ReferencesMissing):
            bench.registry.put_manifest("a", body, OCI_MANIFEST, digest=None, tags=("v1",))
        assert len(bench.meta.dead_fragments(0.0)) == bench.chunks() == 1

    def test_annotations_are_kept_only_where_they_are_listed(self, bench: Bench) -> None:
        bench.registry.push_blob("a", sha256(b"{}"), BytesSource(b"{}"))
        told = descriptor(b"s", OCI_MANIFEST)
        for extra, kept in (({}, {}), ({"subject": told}, {"k": "v"})):
            body = encoded(image(b"{}", annotations={"k": "v"}, **extra))
            manifest, _ = bench.registry.put_manifest("a", body, OCI_MANIFEST, digest=None, tags=())
            assert dict(manifest.annotations) == kept
