"""What metaserver.interface.Catalogue promises about uploads, held by every implementation."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from metaserver.interface import MetaStore
from tests.metaserver.stores import cut, dead_fids, digest_of, fids_of, repositories
from wire.errors import (
    BadRequest,
    BlobUnknown,
    Conflict,
    FileNotFound,
    RepositoryUnknown,
    UploadConflict,
    UploadUnknown,
)

REPO = "team/app"
DIGEST = digest_of("content")


@pytest.fixture
def store(meta_store: MetaStore) -> MetaStore:
    return meta_store


# -- uploads ----------------------------------------------------------------------------------------------------------


def test_a_new_upload_is_empty_and_can_be_asked_for(store: MetaStore) -> None:
    before = time.time()
    upload = store.create_upload(REPO, "u1", b"\x00state\xff")
    assert (upload.upload_id, upload.repository, upload.offset, upload.fragments) == ("u1", REPO, 0, 0)
    assert upload.digest_state == b"\x00state\xff"
    assert before - 5 < upload.started_s < time.time() + 5
    assert store.upload(REPO, "u1") == upload
    assert store.fragments(upload.file_id) == ()


def test_an_upload_alone_makes_no_repository(store: MetaStore) -> None:
    store.create_upload(REPO, "u1", b"")
    assert repositories(store) == []
    with pytest.raises(RepositoryUnknown):
        store.tags(REPO)


def test_creating_an_upload_again_is_harmless(store: MetaStore) -> None:
    first = store.create_upload(REPO, "u1", b"s0")
    assert store.create_upload(REPO, "u1", b"s0") == first
    advanced = store.advance_upload(REPO, "u1", 0, cut(5), b"s5")
    assert store.create_upload(REPO, "u1", b"s0") == advanced
    with pytest.raises(Conflict):
        store.create_upload("other/app", "u1", b"s0")


def test_many_creations_of_one_upload_give_one(store: MetaStore) -> None:
    with ThreadPoolExecutor(6) as pool:
        uploads = list(pool.map(lambda _: store.create_upload(REPO, "u1", b"s0"), range(6)))
    assert len(set(uploads)) == 1


def test_an_unknown_upload_and_one_of_another_repository_are_unknown(store: MetaStore) -> None:
    store.create_upload(REPO, "u1", b"")
    for repository, upload_id in ((REPO, "u2"), ("team/other", "u1")):
        with pytest.raises(UploadUnknown):
            store.upload(repository, upload_id)
        with pytest.raises(UploadUnknown):
            store.advance_upload(repository, upload_id, 0, cut(1), b"")
        with pytest.raises(UploadUnknown):
            store.finish_upload(repository, upload_id, 0, [], DIGEST)
        with pytest.raises(UploadUnknown):
            store.cancel_upload(repository, upload_id)
    assert store.upload(REPO, "u1").offset == 0


def test_advancing_appends_and_replaces_the_digest_state_together(store: MetaStore) -> None:
    created = store.create_upload(REPO, "u1", b"s0")
    first, second = cut(5, 6), cut(7, offset=11)
    upload = store.advance_upload(REPO, "u1", 0, first, b"s11")
    assert upload == replace(created, offset=11, fragments=2, digest_state=b"s11")
    upload = store.advance_upload(REPO, "u1", 11, second, b"s18")
    assert upload == replace(created, offset=18, fragments=3, digest_state=b"s18")
    assert store.upload(REPO, "u1") == upload
    assert store.fragments(upload.file_id) == first + second


def test_an_advance_at_another_offset_is_refused_with_the_real_one(store: MetaStore) -> None:
    store.create_upload(REPO, "u1", b"s0")
    store.advance_upload(REPO, "u1", 0, cut(5), b"s5")
    for wrong in (0, 4, 6):
        with pytest.raises(UploadConflict) as caught:
            store.advance_upload(REPO, "u1", wrong, cut(3, offset=wrong), b"wrong")
        assert caught.value.offset == 5
    upload = store.upload(REPO, "u1")
    assert (upload.offset, upload.digest_state) == (5, b"s5")


def test_a_repeat_of_the_last_advance_succeeds_and_of_an_older_one_does_not(store: MetaStore) -> None:
    store.create_upload(REPO, "u1", b"s0")
    first, second = cut(5), cut(6, offset=5)
    for _ in range(2):
        assert store.advance_upload(REPO, "u1", 0, first, b"s5").offset == 5
    for _ in range(2):
        assert store.advance_upload(REPO, "u1", 5, second, b"s11").fragments == 2
    with pytest.raises(UploadConflict) as caught:
        store.advance_upload(REPO, "u1", 0, first, b"s5")
    assert caught.value.offset == 11
    assert store.upload(REPO, "u1").digest_state == b"s11"


def test_fragments_with_a_gap_are_refused_by_an_upload(store: MetaStore) -> None:
    store.create_upload(REPO, "u1", b"s0")
    with pytest.raises(BadRequest):
        store.advance_upload(REPO, "u1", 0, cut(5, offset=1), b"s5")
    with pytest.raises(BadRequest):
        store.finish_upload(REPO, "u1", 0, cut(5, offset=1), DIGEST)
    assert store.upload(REPO, "u1").offset == 0


def test_of_two_advances_at_one_offset_one_wins_and_the_other_learns_the_real_one(store: MetaStore) -> None:
    store.create_upload(REPO, "u1", b"s0")

    def advance(number: int) -> str:
        try:
            return f"has {store.advance_upload(REPO, 'u1', 0, cut(5), b'%d' % number).offset}"
        except UploadConflict as conflict:
            return f"conflict at {conflict.offset}"

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(advance, range(6)))
    assert sorted(answers) == ["conflict at 5"] * 5 + ["has 5"]
    assert store.upload(REPO, "u1").digest_state == b"%d" % answers.index("has 5")


def test_the_file_of_an_upload_cannot_be_changed_behind_its_digest_state(store: MetaStore) -> None:
    upload = store.create_upload(REPO, "u1", b"s0")
    with pytest.raises(Conflict):
        store.append_fragments(upload.file_id, 0, cut(5))
    with pytest.raises(Conflict):
        store.commit_file(upload.file_id, "mine")
    with pytest.raises(Conflict):
        store.abandon_file(upload.file_id)
    assert store.upload(REPO, "u1") == upload


def test_cancelling_ends_the_session_and_kills_its_chunks(store: MetaStore) -> None:
    upload = store.create_upload(REPO, "u1", b"s0")
    fragments = cut(5, 6)
    store.advance_upload(REPO, "u1", 0, fragments, b"s11")
    store.cancel_upload(REPO, "u1")
    with pytest.raises(UploadUnknown):
        store.upload(REPO, "u1")
    with pytest.raises(UploadUnknown):
        store.cancel_upload(REPO, "u1")
    with pytest.raises(FileNotFound):
        store.fragments(upload.file_id)
    assert dead_fids(store) == fids_of(fragments)


# -- finishing --------------------------------------------------------------------------------------------------------


def test_finishing_makes_the_upload_a_blob_and_a_committed_file(store: MetaStore) -> None:
    upload = store.create_upload(REPO, "u1", b"s0")
    first, last = cut(5, 6), cut(7, offset=11)
    store.advance_upload(REPO, "u1", 0, first, b"s11")
    blob = store.finish_upload(REPO, "u1", 11, last, DIGEST)
    assert (blob.digest, blob.size, blob.file_id) == (DIGEST, 18, upload.file_id)
    assert store.blob(REPO, DIGEST) == blob
    assert store.fragments(blob.file_id) == first + last
    path = "blobs/sha256/" + DIGEST.partition(":")[2]
    info = store.stat(path)
    assert (info.file_id, info.path, info.size) == (blob.file_id, path, 18)
    with pytest.raises(UploadUnknown):
        store.upload(REPO, "u1")
    assert repositories(store) == [REPO]
    assert store.tags(REPO).names == ()
    assert dead_fids(store) == set()


def test_finishing_needs_no_last_fragments_and_no_bytes_at_all(store: MetaStore) -> None:
    store.create_upload(REPO, "u1", b"s0")
    store.advance_upload(REPO, "u1", 0, cut(5), b"s5")
    assert store.finish_upload(REPO, "u1", 5, [], DIGEST).size == 5
    store.create_upload(REPO, "u2", b"s0")
    empty = store.finish_upload(REPO, "u2", 0, [], digest_of(""))
    assert empty.size == 0
    assert store.fragments(empty.file_id) == ()


def test_a_repeated_finish_answers_the_blob(store: MetaStore) -> None:
    store.create_upload(REPO, "u1", b"s0")
    fragments = cut(5)
    blob = store.finish_upload(REPO, "u1", 0, fragments, DIGEST)
    assert store.finish_upload(REPO, "u1", 0, fragments, DIGEST) == blob
    assert store.fragments(blob.file_id) == fragments
    assert dead_fids(store) == set()
    with pytest.raises(UploadUnknown):
        store.finish_upload(REPO, "u1", 0, fragments, digest_of("other"))
    with pytest.raises(UploadUnknown):
        store.finish_upload("team/other", "u1", 0, fragments, DIGEST)


def test_of_two_finishes_of_one_upload_with_bytes_the_later_ones_chunks_become_dead(store: MetaStore) -> None:
    store.create_upload(REPO, "u1", b"s0")
    first = cut(5)
    store.advance_upload(REPO, "u1", 0, first, b"s5")
    kept, unwanted = cut(6, 7, offset=5), cut(6, 7, offset=5)
    blob = store.finish_upload(REPO, "u1", 5, kept, DIGEST)
    assert store.finish_upload(REPO, "u1", 5, unwanted, DIGEST) == blob
    assert store.fragments(blob.file_id) == first + kept
    assert dead_fids(store) == fids_of(unwanted)


def test_finishing_at_another_offset_is_refused_and_the_session_stays(store: MetaStore) -> None:
    store.create_upload(REPO, "u1", b"s0")
    store.advance_upload(REPO, "u1", 0, cut(5), b"s5")
    with pytest.raises(UploadConflict) as caught:
        store.finish_upload(REPO, "u1", 0, [], DIGEST)
    assert caught.value.offset == 5
    assert store.upload(REPO, "u1").offset == 5
    with pytest.raises(BlobUnknown):
        store.blob(REPO, DIGEST)


def test_an_upload_of_what_exists_already_takes_its_place_and_kills_the_old_chunks(store: MetaStore) -> None:
    old = cut(5, 6)
    before = store.put_blob("team/base", DIGEST, old)
    store.create_upload(REPO, "u1", b"s0")
    first, last = cut(5), cut(6, offset=5)
    store.advance_upload(REPO, "u1", 0, first, b"s5")
    blob = store.finish_upload(REPO, "u1", 5, last, DIGEST)
    assert blob == replace(before, file_id=blob.file_id)
    assert store.blob(REPO, DIGEST) == store.blob("team/base", DIGEST) == blob
    assert store.fragments(blob.file_id) == first + last
    assert dead_fids(store) == fids_of(old)
    with pytest.raises(FileNotFound):
        store.fragments(before.file_id)
    assert store.stat("blobs/sha256/" + DIGEST.partition(":")[2]).file_id == blob.file_id
    assert repositories(store) == [REPO, "team/base"]


def test_finishes_of_one_digest_at_once_make_one_blob_and_all_succeed(store: MetaStore) -> None:
    uploads = [f"u{number}" for number in range(8)]
    fragments = {upload_id: (cut(5), cut(6, offset=5)) for upload_id in uploads}
    for upload_id in uploads:
        store.create_upload(f"team/{upload_id}", upload_id, b"s0")
        store.advance_upload(f"team/{upload_id}", upload_id, 0, fragments[upload_id][0], b"s5")

    def finish(upload_id: str) -> object:
        return store.finish_upload(f"team/{upload_id}", upload_id, 5, fragments[upload_id][1], DIGEST)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(finish, uploads))
    blob = store.blob("team/u0", DIGEST)
    assert {store.blob(f"team/{upload_id}", DIGEST) for upload_id in uploads} == {blob}
    live = fids_of(store.fragments(blob.file_id))
    assert len(live) == 2
    assert dead_fids(store) == {fid for pair in fragments.values() for part in pair for fid in fids_of(part)} - live
    assert repositories(store) == [f"team/{upload_id}" for upload_id in uploads]


def test_uploads_to_which_nothing_is_added_are_ended_the_longest_idle_first(store: MetaStore) -> None:
    for upload_id in ("u1", "u2", "u3"):
        store.create_upload(REPO, upload_id, b"s0")
    first, second = cut(5), cut(6, offset=5)
    store.advance_upload(REPO, "u1", 0, first, b"s5")
    store.advance_upload(REPO, "u1", 5, second, b"s11")  # the one that began first is the one last touched
    assert store.expire_upload(3600.0) is None
    assert store.expire_upload(0.0) == "u2"
    assert store.upload(REPO, "u1").offset == 11
    assert [store.expire_upload(0.0) for _ in range(3)] == ["u3", "u1", None]
    for upload_id in ("u1", "u2", "u3"):
        with pytest.raises(UploadUnknown):
            store.upload(REPO, upload_id)
    with pytest.raises(UploadUnknown):
        store.advance_upload(REPO, "u1", 11, cut(5, offset=11), b"s16")
    assert dead_fids(store) == fids_of(first + second)


def test_several_that_end_uploads_at_once_end_each_one_once(store: MetaStore) -> None:
    uploads = [f"u{number}" for number in range(24)]
    for upload_id in uploads:
        store.create_upload(REPO, upload_id, b"s0")

    def expire(_: int) -> list[str]:
        # A locked session is passed over, so that one who finds none is not yet the last to look.
        return [ended for ended in (store.expire_upload(0.0) for _ in range(24)) if ended is not None]

    with ThreadPoolExecutor(4) as pool:
        ended = [upload_id for found in pool.map(expire, range(4)) for upload_id in found]
    assert sorted(ended) == sorted(uploads)
