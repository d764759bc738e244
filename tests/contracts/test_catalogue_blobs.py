"""What metaserver.interface.Catalogue promises about blobs, held by every implementation."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from metaserver.interface import MetaStore
from tests.metaserver.stores import cut, dead_fids, digest_of, fids_of, repositories
from wire.errors import (
    BadRequest,
    BlobUnknown,
    ChunkDead,
    Conflict,
    FileNotFound,
    RepositoryUnknown,
)

REPO = "team/app"
DIGEST = digest_of("content")


@pytest.fixture
def store(meta_store: MetaStore) -> MetaStore:
    return meta_store


# -- blobs in one step ------------------------------------------------------------------------------------------------


def test_a_blob_can_be_put_in_one_step(store: MetaStore) -> None:
    fragments = cut(5, 6)
    blob = store.put_blob(REPO, DIGEST, fragments)
    assert (blob.digest, blob.size) == (DIGEST, 11)
    assert store.blob(REPO, DIGEST) == blob
    assert store.fragments(blob.file_id) == fragments
    assert store.stat("blobs/sha256/" + DIGEST.partition(":")[2]).size == 11


def test_a_repeated_put_keeps_the_chunks_that_it_brought_the_first_time(store: MetaStore) -> None:
    fragments = cut(5, 6)
    blob = store.put_blob(REPO, DIGEST, fragments)
    assert store.put_blob(REPO, DIGEST, fragments) == blob
    assert store.fragments(blob.file_id) == fragments
    assert dead_fids(store) == set()


def test_a_put_of_what_exists_takes_its_place_once(store: MetaStore) -> None:
    old, new = cut(5), cut(5)
    store.put_blob("team/base", DIGEST, old)
    blob = store.put_blob(REPO, DIGEST, new)
    assert store.blob("team/base", DIGEST) == blob
    # Repeats of either request, the first one's chunks are dead by now, change nothing any more.
    for repository, repeated in ((REPO, new), ("team/base", old)):
        assert store.put_blob(repository, DIGEST, repeated) == blob
    assert store.fragments(blob.file_id) == new
    assert dead_fids(store) == fids_of(old)


def test_a_damaged_blob_is_told_and_not_mounted_until_it_is_pushed_again_anywhere(store: MetaStore) -> None:
    blob = store.put_blob(REPO, DIGEST, cut(5))
    store.mount_blob("team/base", DIGEST, REPO)
    assert not blob.damaged
    for _ in range(2):
        store.mark_damaged(DIGEST, blob.file_id)
    for repository in (REPO, "team/base"):
        assert store.blob(repository, DIGEST) == replace(blob, damaged=True)
    for source in (REPO, None):
        with pytest.raises(BlobUnknown):
            store.mount_blob("team/other", DIGEST, source)
    assert repositories(store) == [REPO, "team/base"]
    healed = store.put_blob("team/other", DIGEST, cut(5))
    assert store.blob(REPO, DIGEST) == store.mount_blob("team/more", DIGEST, REPO) == healed
    assert not healed.damaged


def test_a_late_report_of_damage_says_nothing_of_the_file_that_came_after(store: MetaStore) -> None:
    before = store.put_blob(REPO, DIGEST, cut(5))
    after = store.put_blob(REPO, DIGEST, cut(5))
    store.mark_damaged(DIGEST, before.file_id)
    store.mark_damaged(digest_of("unknown"), after.file_id)
    assert store.blob(REPO, DIGEST) == after
    assert not after.damaged


def test_repeats_of_one_put_that_run_at_once_lose_no_chunk(store: MetaStore) -> None:
    fragments = cut(5, 6)
    with ThreadPoolExecutor(8) as pool:
        blobs = set(pool.map(lambda _: store.put_blob(REPO, DIGEST, fragments), range(8)))
    assert len(blobs) == 1
    assert store.fragments(blobs.pop().file_id) == fragments
    assert dead_fids(store) == set()


def test_a_put_whose_chunks_were_given_up_meanwhile_is_refused(store: MetaStore) -> None:
    late = cut(5)
    store.put_blob(REPO, DIGEST, late)
    store.delete_blob(REPO, DIGEST)
    with pytest.raises(ChunkDead):
        store.put_blob(REPO, DIGEST, late)
    with pytest.raises(BlobUnknown):
        store.blob(REPO, DIGEST)


def test_the_same_content_under_two_algorithms_is_two_blobs(store: MetaStore) -> None:
    other = "sha512:" + "ab" * 64
    assert store.put_blob(REPO, DIGEST, cut(5)).file_id != store.put_blob(REPO, other, cut(5)).file_id
    assert store.stat("blobs/sha512/" + "ab" * 64).size == 5


def test_a_blob_is_seen_in_its_repositories_only(store: MetaStore) -> None:
    store.put_blob(REPO, DIGEST, cut(5))
    store.put_blob("team", digest_of("other"), cut(5))
    for repository in ("team", "team/app/sub", "team/ap", "TEAM/APP", "unknown"):
        with pytest.raises(BlobUnknown):
            store.blob(repository, DIGEST)


@pytest.mark.parametrize(
    "digest", ["", "sha256", "sha256:", ":aa", "sha256:../../x", "sha256:a/b", "sha256:" + "a" * 300]
)
def test_what_is_no_digest_is_refused(store: MetaStore, digest: str) -> None:
    with pytest.raises(BadRequest):
        store.put_blob(REPO, digest, cut(5))
    with pytest.raises(BadRequest):
        store.blob(REPO, digest)


# -- mounts -----------------------------------------------------------------------------------------------------------


def test_a_mount_gives_another_repository_the_same_file(store: MetaStore) -> None:
    blob = store.put_blob("team/base", DIGEST, cut(5))
    for _ in range(2):
        assert store.mount_blob(REPO, DIGEST, "team/base") == blob
    assert store.mount_blob("third", DIGEST, None) == blob
    assert store.blob(REPO, DIGEST) == blob
    assert repositories(store) == [REPO, "team/base", "third"]


def test_a_mount_from_where_the_blob_is_not_is_refused_and_makes_nothing(store: MetaStore) -> None:
    store.put_blob("team/base", DIGEST, cut(5))
    store.put_blob("team/empty", digest_of("other"), cut(5))
    for source in ("team/empty", "unknown"):
        with pytest.raises(BlobUnknown):
            store.mount_blob(REPO, DIGEST, source)
    with pytest.raises(BlobUnknown):
        store.mount_blob(REPO, digest_of("nowhere"), None)
    assert REPO not in repositories(store)


# -- deleting blobs ---------------------------------------------------------------------------------------------------


def test_a_blob_goes_with_its_last_repository(store: MetaStore) -> None:
    fragments = cut(5, 6)
    blob = store.put_blob("team/base", DIGEST, fragments)
    store.mount_blob(REPO, DIGEST, "team/base")
    store.delete_blob("team/base", DIGEST)
    with pytest.raises(BlobUnknown):
        store.blob("team/base", DIGEST)
    assert store.blob(REPO, DIGEST) == blob
    assert dead_fids(store) == set()
    store.delete_blob(REPO, DIGEST)
    with pytest.raises(FileNotFound):
        store.fragments(blob.file_id)
    assert dead_fids(store) == fids_of(fragments)
    with pytest.raises(BlobUnknown):
        store.mount_blob(REPO, DIGEST, None)


def test_deleting_what_is_not_there_is_blob_unknown(store: MetaStore) -> None:
    store.put_blob("team/base", DIGEST, cut(5))
    with pytest.raises(BlobUnknown):
        store.delete_blob(REPO, DIGEST)
    with pytest.raises(BlobUnknown):
        store.delete_blob("team/base", digest_of("other"))
    store.delete_blob("team/base", DIGEST)
    with pytest.raises(BlobUnknown):
        store.delete_blob("team/base", DIGEST)


def test_a_repository_without_content_is_unknown_again(store: MetaStore) -> None:
    store.put_blob(REPO, DIGEST, cut(5))
    assert repositories(store) == [REPO]
    store.delete_blob(REPO, DIGEST)
    assert repositories(store) == []
    with pytest.raises(RepositoryUnknown):
        store.tags(REPO)
    store.put_blob(REPO, DIGEST, cut(5))
    assert repositories(store) == [REPO]


def test_the_file_of_a_blob_cannot_be_taken_away_behind_the_catalogue(store: MetaStore) -> None:
    blob = store.put_blob(REPO, DIGEST, cut(5))
    path = "blobs/sha256/" + DIGEST.partition(":")[2]
    with pytest.raises(Conflict):
        store.delete_file(path)
    with pytest.raises(Conflict):
        store.move(path, "elsewhere")
    assert store.blob(REPO, DIGEST) == blob
    assert store.stat(path).file_id == blob.file_id


def test_pushing_and_deleting_one_blob_at_once_never_leaves_a_name_without_its_file(store: MetaStore) -> None:
    def work(number: int) -> None:
        repository = f"team/{number % 2}"
        for _ in range(8):
            if number < 3:
                store.put_blob(repository, DIGEST, cut(5))
            elif number == 3:
                try:
                    store.mount_blob(repository, DIGEST, None)
                except BlobUnknown:
                    continue
            else:
                try:
                    store.delete_blob(repository, DIGEST)
                except BlobUnknown:
                    continue

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    live = set()
    for repository in repositories(store):
        live |= fids_of(store.fragments(store.blob(repository, DIGEST).file_id))
        assert len(live) == 1
    assert not live & dead_fids(store)
    assert len(store.list_files("blobs")) == len(live)
