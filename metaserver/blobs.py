"""Blobs of repositories: the blobs of metaserver.interface.Catalogue over SQL."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from metaserver import models as m
from metaserver import repository_rows
from metaserver.checks import check_digest, check_file_id, check_fragments, check_name
from metaserver.content import BLOBS
from metaserver.interface import Blob, Fragment
from metaserver.transactions import Transactions
from wire.database import now_s
from wire.errors import BlobUnknown

_SELECT = (
    select(m.blobs.c.digest, m.blobs.c.size, m.blobs.c.file_id, m.blobs.c.damaged_s)
    .join_from(m.repository_blobs, m.blobs, m.blobs.c.digest == m.repository_blobs.c.digest)
    .where(m.repository_blobs.c.repository == bindparam("of_repository"))
    .where(m.repository_blobs.c.digest == bindparam("of_digest"))
)
_LINK = {
    "postgresql": postgresql.insert(m.repository_blobs).on_conflict_do_nothing(),
    "sqlite": sqlite.insert(m.repository_blobs).on_conflict_do_nothing(),
}
_UNLINK = delete(m.repository_blobs).where(
    m.repository_blobs.c.repository == bindparam("of_repository"), m.repository_blobs.c.digest == bindparam("of_digest")
)

_DAMAGED = select(m.blobs.c.damaged_s).where(m.blobs.c.digest == bindparam("of_digest"))
_MARK_DAMAGED = (
    update(m.blobs)
    .where(m.blobs.c.digest == bindparam("of_digest"), m.blobs.c.file_id == bindparam("of_file"))
    .where(m.blobs.c.damaged_s.is_(None))
    .values(damaged_s=now_s())
)


def find(connection: Connection, repository: str, digest: str) -> Blob | None:
    row = connection.execute(_SELECT, {"of_repository": repository, "of_digest": digest}).one_or_none()
    return None if row is None else Blob(row.digest, row.size, row.file_id, row.damaged_s is not None)


def link(connection: Connection, repository: str, digest: str) -> None:
    """Give the repository a blob; both rows are locked."""
    connection.execute(_LINK[connection.dialect.name], {"repository": repository, "digest": digest})


class Blobs(Transactions):
    def put_blob(self, repository: str, digest: str, fragments: Sequence[Fragment]) -> Blob:
        _check(repository, digest)
        size = check_fragments(fragments, 0)

        def put(connection: Connection) -> Blob:
            repository_rows.keep(connection, repository)
            stored = BLOBS.put_fragments(connection, digest, fragments, size)
            link(connection, repository, digest)
            return Blob(digest, stored.size, stored.file_id)

        return self._write(put)

    def blob(self, repository: str, digest: str) -> Blob:
        _check(repository, digest)
        blob = self._read(lambda connection: find(connection, repository, digest))
        if blob is None:
            raise BlobUnknown(f"{repository} has no blob {digest}")
        return blob

    def mount_blob(self, repository: str, digest: str, source: str | None) -> Blob:
        _check(repository, digest)
        if source is not None:
            check_name("the source", source)

        def mount(connection: Connection) -> Blob:
            repository_rows.keep(connection, repository)
            stored = BLOBS.lock(connection, digest)
            if stored is None or (source is not None and find(connection, source, digest) is None):
                # Raising also takes back a repository that `keep` made.
                raise BlobUnknown(f"{source or 'no repository'} has no blob {digest}")
            if connection.scalar(_DAMAGED, {"of_digest": digest}) is not None:
                raise BlobUnknown(f"{digest} is damaged")
            link(connection, repository, digest)
            return Blob(digest, stored.size, stored.file_id)

        return self._write(mount)

    def mark_damaged(self, digest: str, file_id: int) -> None:
        check_digest(digest)
        check_file_id(file_id)
        parameters = {"of_digest": digest, "of_file": file_id}
        self._write(lambda connection: connection.execute(_MARK_DAMAGED, parameters) and None)

    def delete_blob(self, repository: str, digest: str) -> None:
        _check(repository, digest)

        def delete_link(connection: Connection) -> None:
            parameters = {"of_repository": repository, "of_digest": digest}
            there = repository_rows.lock(connection, repository)
            if not there or connection.execute(_UNLINK, parameters).rowcount == 0:
                raise BlobUnknown(f"{repository} has no blob {digest}")
            stored = BLOBS.unlinked(connection, digest)
            if stored is not None:
                BLOBS.remove(connection, digest, stored)
            repository_rows.drop_if_empty(connection, repository)

        self._write(delete_link)


def _check(repository: str, digest: str) -> None:
    check_name("the repository", repository)
    check_digest(digest)
