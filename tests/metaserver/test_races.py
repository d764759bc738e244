"""Transactions that meet on PostgreSQL, each order brought about on purpose: one is held before its commit, the other
must wait for its lock and then see what the first did. (SQLite has one writer, so there nothing meets.)"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from sqlalchemy import Connection, event, select, text

from metaserver.core import LocalMetaStore
from metaserver.interface import Condition, MetaStore
from metaserver.models import dead_fragments
from tests.metaserver.stores import Opened, cut, dead_fids, digest_of, fids_of, new_manifest
from tests.wire.serving import wait_until
from wire.database import create_engine, run_transaction
from wire.errors import (
    BlobUnknown,
    ConditionFailed,
    ManifestUnknown,
    ReferencesMissing,
    RepositoryUnknown,
    UploadConflict,
)

REPO = "team/app"
BLOB = digest_of("blob")


@contextmanager
def held_before_commit(opened: Opened, call: Callable[[MetaStore], object]) -> Iterator[Callable[[], object]]:
    """`call` on a store of its own, done but not committed; the function given lets it commit and returns its
    result."""
    engine = create_engine(opened.engine.url.render_as_string(hide_password=False))
    reached, go_on = threading.Event(), threading.Event()

    def hold(_connection: Connection) -> None:
        reached.set()
        assert go_on.wait(20)

    event.listen(engine, "commit", hold)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(call, LocalMetaStore(engine))
        assert reached.wait(20)

        def finish() -> object:
            go_on.set()
            return running.result(20)

        try:
            yield finish
        finally:
            go_on.set()
    engine.dispose()


def waits_for_a_lock(opened: Opened, running: Future[object]) -> None:
    query = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )

    def is_waiting() -> bool:
        assert not running.done(), "it did not wait for the other transaction"
        return bool(run_transaction(opened.engine, lambda c: c.scalar(query), read_only=True))

    wait_until(is_waiting, 20.0, "a wait for a lock")


def meet(opened: Opened, first: Callable[[MetaStore], object], second: Callable[[MetaStore], object]) -> Future[object]:
    """`first` is about to commit when `second` begins; afterwards both are through. The outcome of `second`."""
    with held_before_commit(opened, first) as commit_first, ThreadPoolExecutor(1) as pool:
        running = pool.submit(second, opened.store)
        waits_for_a_lock(opened, running)
        commit_first()
        running.exception(20)
    return running


def test_a_manifest_waits_for_the_deletion_of_its_blob_and_is_refused(postgres_store: Opened) -> None:
    store = postgres_store.store
    store.put_blob(REPO, BLOB, cut(5))
    store.put_blob(REPO, digest_of("another"), cut(5))
    outcome = meet(
        postgres_store,
        lambda other: other.delete_blob(REPO, BLOB),
        lambda mine: mine.put_manifest(REPO, new_manifest("m", blobs=[BLOB]), ["v1"]),
    )
    assert isinstance(outcome.exception(), ReferencesMissing)
    with pytest.raises(ManifestUnknown):
        store.manifest(REPO, "v1")


def test_a_manifest_is_not_let_in_by_a_repository_that_came_and_went_meanwhile(postgres_store: Opened) -> None:
    other_engine = create_engine(postgres_store.engine.url.render_as_string(hide_password=False))
    other = LocalMetaStore(other_engine)
    todo = [lambda: other.put_blob(REPO, BLOB, cut(5)), lambda: other.delete_blob(REPO, BLOB)]

    def between_statements(*_arguments: object) -> None:
        if todo:
            todo.pop(0)()

    event.listen(postgres_store.engine, "after_cursor_execute", between_statements)
    try:
        with pytest.raises(ReferencesMissing):
            postgres_store.store.put_manifest(REPO, new_manifest("m", blobs=[BLOB]), ["v1"])
    finally:
        event.remove(postgres_store.engine, "after_cursor_execute", between_statements)
        other_engine.dispose()
    with pytest.raises(ManifestUnknown):
        postgres_store.store.manifest(REPO, "v1")


def test_a_deletion_waits_for_the_manifest_that_names_the_blob(postgres_store: Opened) -> None:
    store = postgres_store.store
    store.put_blob(REPO, BLOB, cut(5))
    outcome = meet(
        postgres_store,
        lambda other: other.put_manifest(REPO, new_manifest("m", blobs=[BLOB]), ["v1"]),
        lambda mine: mine.delete_blob(REPO, BLOB),
    )
    assert outcome.exception() is None
    assert store.manifest(REPO, "v1").size == 1


def test_a_manifest_that_depends_on_a_tag_waits_for_its_deletion_and_is_refused(postgres_store: Opened) -> None:
    store = postgres_store.store
    store.put_manifest(REPO, new_manifest("old"), ["v1"])
    outcome = meet(
        postgres_store,
        lambda other: other.delete_tag(REPO, "v1"),
        lambda mine: mine.put_manifest(REPO, new_manifest("m"), ["v1"], [Condition("v1", (digest_of("old"),), True)]),
    )
    assert isinstance(outcome.exception(), ConditionFailed)
    with pytest.raises(ManifestUnknown):
        store.manifest(REPO, "v1")


def test_a_deletion_that_depends_on_a_tag_waits_for_a_push_of_it_and_is_refused(postgres_store: Opened) -> None:
    store = postgres_store.store
    store.put_manifest(REPO, new_manifest("old"), ["v1"])
    outcome = meet(
        postgres_store,
        lambda other: other.put_manifest(REPO, new_manifest("new"), ["v1"]),
        lambda mine: mine.delete_tag(REPO, "v1", [Condition("v1", (digest_of("old"),), True)]),
    )
    assert isinstance(outcome.exception(), ConditionFailed)
    assert store.manifest(REPO, "v1").digest == digest_of("new")


def test_a_manifest_that_depends_on_a_tag_waits_for_another_push_of_it_and_is_refused(postgres_store: Opened) -> None:
    store = postgres_store.store
    store.put_manifest(REPO, new_manifest("old"), [])
    outcome = meet(
        postgres_store,
        lambda other: other.put_manifest(REPO, new_manifest("other"), ["v1"]),
        lambda mine: mine.put_manifest(REPO, new_manifest("m"), ["v1"], [Condition("v1", None, False)]),
    )
    assert isinstance(outcome.exception(), ConditionFailed)
    assert store.manifest(REPO, "v1").digest == digest_of("other")


def test_a_mount_waits_for_the_deletion_of_the_last_link_and_is_refused(postgres_store: Opened) -> None:
    store = postgres_store.store
    store.put_blob(REPO, BLOB, cut(5))
    outcome = meet(
        postgres_store,
        lambda other: other.delete_blob(REPO, BLOB),
        lambda mine: mine.mount_blob("elsewhere", BLOB, None),
    )
    assert isinstance(outcome.exception(), BlobUnknown)
    with pytest.raises(RepositoryUnknown):
        store.tags("elsewhere")


def test_a_deletion_waits_for_a_mount_and_leaves_the_file(postgres_store: Opened) -> None:
    store = postgres_store.store
    fragments = cut(5)
    store.put_blob(REPO, BLOB, fragments)
    outcome = meet(
        postgres_store,
        lambda other: other.mount_blob("elsewhere", BLOB, REPO),
        lambda mine: mine.delete_blob(REPO, BLOB),
    )
    assert outcome.exception() is None
    assert store.fragments(store.blob("elsewhere", BLOB).file_id) == fragments
    assert dead_fids(store) == set()


def test_a_push_waits_for_the_deletion_of_the_same_blob_and_brings_its_own_chunks(postgres_store: Opened) -> None:
    store = postgres_store.store
    old, new = cut(5), cut(5)
    store.put_blob(REPO, BLOB, old)
    outcome = meet(
        postgres_store,
        lambda other: other.delete_blob(REPO, BLOB),
        lambda mine: mine.put_blob("elsewhere", BLOB, new),
    )
    assert outcome.exception() is None
    assert store.fragments(store.blob("elsewhere", BLOB).file_id) == new
    assert dead_fids(store) == fids_of(old)


def test_a_push_into_a_repository_that_is_about_to_vanish_makes_it_again(postgres_store: Opened) -> None:
    store = postgres_store.store
    store.put_blob(REPO, BLOB, cut(5))
    outcome = meet(
        postgres_store,
        lambda other: other.delete_blob(REPO, BLOB),
        lambda mine: mine.put_blob(REPO, digest_of("another"), cut(5)),
    )
    assert outcome.exception() is None
    assert store.repositories().names == (REPO,)


def test_the_last_deletion_waits_for_a_push_and_leaves_the_repository(postgres_store: Opened) -> None:
    store = postgres_store.store
    store.put_blob(REPO, BLOB, cut(5))
    outcome = meet(
        postgres_store,
        lambda other: other.put_blob(REPO, digest_of("another"), cut(5)),
        lambda mine: mine.delete_blob(REPO, BLOB),
    )
    assert outcome.exception() is None
    assert store.repositories().names == (REPO,)


def test_the_second_push_of_a_digest_waits_for_the_first_and_takes_its_place(postgres_store: Opened) -> None:
    store = postgres_store.store
    first, second = cut(5), cut(5)
    store.create_upload("a", "u1", b"")
    outcome = meet(
        postgres_store,
        lambda other: other.put_blob("b", BLOB, first),
        lambda mine: mine.finish_upload("a", "u1", 0, second, BLOB),
    )
    assert outcome.exception() is None
    assert store.blob("a", BLOB) == store.blob("b", BLOB)
    assert store.fragments(store.blob("b", BLOB).file_id) == second
    assert dead_fids(store) == fids_of(first)


def test_a_report_of_damage_waits_for_the_push_that_heals_and_changes_nothing(postgres_store: Opened) -> None:
    store = postgres_store.store
    damaged = store.put_blob("a", BLOB, cut(5))
    outcome = meet(
        postgres_store,
        lambda other: other.put_blob("b", BLOB, cut(5)),
        lambda mine: mine.mark_damaged(BLOB, damaged.file_id),
    )
    assert outcome.exception() is None
    assert not store.blob("a", BLOB).damaged


def test_the_second_advance_waits_for_the_first_and_learns_the_real_offset(postgres_store: Opened) -> None:
    store = postgres_store.store
    store.create_upload(REPO, "u1", b"s0")
    outcome = meet(
        postgres_store,
        lambda other: other.advance_upload(REPO, "u1", 0, cut(5), b"s5"),
        lambda mine: mine.advance_upload(REPO, "u1", 0, cut(7), b"s7"),
    )
    conflict = outcome.exception()
    assert isinstance(conflict, UploadConflict)
    assert conflict.offset == 5
    assert store.upload(REPO, "u1").digest_state == b"s5"


def test_pushes_of_different_blobs_into_one_repository_do_not_wait_for_each_other(postgres_store: Opened) -> None:
    store = postgres_store.store
    store.put_blob(REPO, BLOB, cut(5))
    with held_before_commit(postgres_store, lambda other: other.put_blob(REPO, digest_of("slow"), cut(5))) as finish:
        store.put_blob(REPO, digest_of("quick"), cut(5))
        store.put_manifest(REPO, new_manifest("m", blobs=[BLOB, digest_of("quick")]), ["v1"])
        finish()


def test_a_fragment_that_is_dead_and_live_at_once_is_not_given_to_the_reclaimer(local_store: Opened) -> None:
    """Two requests with the same chunks may cross, one keeping and one giving them up; nobody's lock covers that."""
    store = local_store.store
    (fragment,) = cut(5)
    store.put_blob(REPO, BLOB, [fragment])
    values = {"fid": fragment.fid, "offset": 0, "length": 5, "group_id": 1, "crc32c": 0, "dead_s": 0.0}
    run_transaction(local_store.engine, lambda c: c.execute(dead_fragments.insert(), values) and None)
    assert store.dead_fragments(0.0) == []


def test_a_repeated_put_never_marks_its_own_live_chunks_dead(local_store: Opened) -> None:
    store = local_store.store
    fragments, again = cut(5, 6), cut(5, 6)
    store.put_blob(REPO, BLOB, fragments)
    for repeated in (fragments, again, again, fragments):
        store.put_blob(REPO, BLOB, repeated)
    rows = run_transaction(local_store.engine, lambda c: set(c.scalars(select(dead_fragments.c.fid))), read_only=True)
    assert rows == fids_of(fragments)
