"""What the store asks of its database: few statements per call, and none that reads a whole table."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import Connection, text

from metaserver.interface import MetaStore
from tests.metaserver.statements import Statement, recorded
from tests.metaserver.stores import Opened, cut, digest_of, new_manifest
from wire.database import run_transaction

REPO = "team/app"


def use_everything(store: MetaStore) -> None:
    """Each method of the contract, in each way that it can go."""
    file_id = store.create_file()
    fragments = cut(5, 6)
    for _ in range(2):
        store.append_fragments(file_id, 0, fragments)
    store.commit_file(file_id, "a/b")
    store.stat("a/b")
    store.fragments(file_id)
    for prefix, after in (("", ""), ("", "a"), ("a", ""), ("a", "a/b")):
        store.list_files(prefix, after)
    store.move("a/b", "a/c")
    store.delete_file("a/c")
    store.abandon_file(store.create_file())
    store.give_up_fragments(cut(5))
    store.forget_dead_fragments([fragment.fid for fragment in store.dead_fragments(0.0)])
    digests = [digest_of(f"{number}") for number in range(4)]
    for number, digest in enumerate([digests[0], digests[1], digests[0]]):
        for _ in range(2):
            store.create_upload(REPO, f"u{number}", b"state")
        store.upload(REPO, f"u{number}")
        part = cut(5)
        for _ in range(2):
            store.advance_upload(REPO, f"u{number}", 0, part, b"state")
        for _ in range(2):
            store.finish_upload(REPO, f"u{number}", 5, cut(5, offset=5), digest)
    store.create_upload(REPO, "u9", b"state")
    store.cancel_upload(REPO, "u9")
    store.create_upload(REPO, "u8", b"state")
    store.expire_upload(0.0)
    for repository in (REPO, "other"):
        store.put_blob(repository, digests[2], cut(5))
    store.mark_damaged(digests[2], store.blob(REPO, digests[2]).file_id)
    store.mount_blob("other", digests[0], REPO)
    store.mount_blob("other", digests[1], None)
    for repository in (REPO, "other"):
        manifest = new_manifest("m", blobs=digests[:3], optional=[digests[3]], subject=digests[0], artifact_type="x")
        store.put_manifest(repository, manifest, ["v1", "v2"])
    for reference in ("v1", manifest.digest):
        store.manifest(REPO, reference)
    store.referrers(REPO, digests[0])
    store.referrers(REPO, digests[0], "x")
    store.tags(REPO)
    store.tags("other", "v2")
    store.repositories()
    store.delete_tag(REPO, "v2")
    for repository in (REPO, "other"):
        store.delete_manifest(repository, manifest.digest)
        for digest in digests[:3]:
            store.delete_blob(repository, digest)


def plans(opened: Opened, statements: list[Statement], explain: str) -> dict[str, str]:
    """Statement -> the database's plan for it."""

    def ask(connection: Connection) -> dict[str, str]:
        if connection.dialect.name == "postgresql":
            # Tables are small here: without this, reading them whole would be right.
            connection.execute(text("SET LOCAL enable_seqscan = off"))
        found = {}
        for statement, parameters in statements:
            if not (statement.startswith("INSERT") and "VALUES" in statement):
                rows = connection.exec_driver_sql(f"{explain} {statement}", parameters)
                found[statement] = "\n".join(str(row[-1]) for row in rows)
        return found

    return run_transaction(opened.engine, ask)


def test_no_statement_reads_a_whole_table_or_sorts_on_sqlite(sqlite_store: Opened) -> None:
    with recorded(sqlite_store.engine) as statements:
        use_everything(sqlite_store.store)
    found = plans(sqlite_store, statements, "EXPLAIN QUERY PLAN")
    assert len(found) > 30
    for statement, plan in found.items():
        # A constant row and an empty IN () are "scanned" too.
        assert not re.search(r"SCAN (?!CONSTANT ROW|\(subquery)", plan), f"{statement}\n{plan}"
        assert "TEMP B-TREE" not in plan, f"{statement}\n{plan}"


def test_no_statement_needs_to_read_a_whole_table_on_postgresql(postgres_store: Opened) -> None:
    with recorded(postgres_store.engine) as statements:
        use_everything(postgres_store.store)
    found = plans(postgres_store, statements, "EXPLAIN")
    assert len(found) > 30
    for statement, plan in found.items():
        assert "Seq Scan" not in plan, f"{statement}\n{plan}"


def test_what_every_pull_asks_is_one_statement(local_store: Opened) -> None:
    store = local_store.store
    blob = store.put_blob(REPO, digest_of("blob"), cut(5))
    manifest = store.put_manifest(REPO, new_manifest("m", blobs=[blob.digest]), ["v1"])
    with recorded(local_store.engine) as statements:
        store.blob(REPO, blob.digest)
        store.manifest(REPO, "v1")
        store.manifest(REPO, manifest.digest)
        store.fragments(blob.file_id)
        store.tags(REPO)
        store.repositories()
        store.stat("blobs/sha256/" + blob.digest.partition(":")[2])
    assert len(statements) == 7


@pytest.mark.parametrize("count", [1, 3000])
def test_finishing_an_upload_costs_the_same_however_many_fragments_it_has(local_store: Opened, count: int) -> None:
    store = local_store.store
    store.create_upload(REPO, "u1", b"")
    store.advance_upload(REPO, "u1", 0, cut(*[4096] * count), b"")
    with recorded(local_store.engine) as statements:
        store.finish_upload(REPO, "u1", 4096 * count, [], digest_of("x"))
    assert len(statements) == 8
    assert not any("fragments SET" in statement or "INTO fragments" in statement for statement, _ in statements)


def test_recording_many_fragments_is_one_insert(local_store: Opened) -> None:
    store = local_store.store
    store.create_upload(REPO, "u1", b"")
    with recorded(local_store.engine) as statements:
        store.advance_upload(REPO, "u1", 0, cut(*[4096] * 16), b"")
    assert len([statement for statement, _ in statements if "INTO fragments" in statement]) == 1
    assert len(statements) == 5
