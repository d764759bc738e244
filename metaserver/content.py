"""What blobs and manifests have in common: one file per digest, shared by all repositories that have it.

Two requests may bring the same digest at once, and a third may take its last repository away. The digest's row decides:
who adds a repository to it holds FOR KEY SHARE, who may remove it FOR UPDATE, and who is second to insert it waits for
the first. Every function runs in its caller's transaction, after repository_rows.keep or .lock (locks have one order).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from sqlalchemy import Connection, Table, bindparam, delete, literal, select, update
from sqlalchemy.dialects import postgresql, sqlite

from metaserver import files, fragment_rows
from metaserver import models as m
from metaserver.checks import content_path
from metaserver.interface import Fragment
from wire.errors import Overloaded

#: how often a digest's row may vanish between looking and inserting before the request gives up
TRIES_MAX = 10


@dataclass(frozen=True, slots=True)
class Stored:
    size: int
    file_id: int


class ContentTable:
    """The rows of `table` (digest, size, file_id); `links` says which repositories have them."""

    def __init__(
        self, table: Table, links: Table, directory: str, fresh: Mapping[str, None] = MappingProxyType({})
    ) -> None:
        """`fresh`: columns that new bytes set to null."""
        self._directory = directory
        found = select(table.c.size, table.c.file_id).where(table.c.digest == bindparam("of_digest"))
        self._lock_shared = found.with_for_update(read=True, key_share=True)
        self._lock_alone = found.with_for_update()
        self._replace = (
            update(table)
            .where(table.c.digest == bindparam("of_digest"))
            .values(size=bindparam("new_size"), file_id=bindparam("new_file"), **fresh)
        )
        self._insert = {
            "postgresql": postgresql.insert(table).on_conflict_do_nothing(),
            "sqlite": sqlite.insert(table).on_conflict_do_nothing(),
        }
        self._linked = select(literal(1)).where(links.c.digest == bindparam("of_digest")).limit(1)
        self._delete = delete(table).where(table.c.digest == bindparam("of_digest"))

    def lock(self, connection: Connection, digest: str) -> Stored | None:
        """The content, which stays until the transaction ends; None when nobody has it."""
        row = connection.execute(self._lock_shared, {"of_digest": digest}).one_or_none()
        return None if row is None else Stored(row.size, row.file_id)

    def put_file(
        self,
        connection: Connection,
        digest: str,
        size: int,
        file_id: int,
        is_repeated: Callable[[], bool] = lambda: False,
    ) -> Stored:
        """Make an open file the content, which stays until the transaction ends. The file that it had goes, with its
        chunks: what was verified just now is certainly good, what has lain there may not be.

        When the content is there and `is_repeated` (asked with the row locked) says that it came with this same
        request, it stays as it is. The caller compares file ids to see which.
        """
        for _ in range(TRIES_MAX):
            row = connection.execute(self._lock_alone, {"of_digest": digest}).one_or_none()
            if row is None:
                values = {"digest": digest, "size": size, "file_id": file_id}
                if connection.execute(self._insert[connection.dialect.name], values).rowcount == 0:
                    continue  # somebody else was first: look at what is there now
            elif is_repeated():
                return Stored(row.size, row.file_id)
            else:
                connection.execute(self._replace, {"of_digest": digest, "new_size": size, "new_file": file_id})
                fragment_rows.kill_file(connection, row.file_id)
            files.name(connection, file_id, content_path(self._directory, digest))
            return Stored(size, file_id)
        raise Overloaded(f"{digest} was deleted and pushed again too often meanwhile", retry_after_s=1)

    def put_fragments(self, connection: Connection, digest: str, fragments: Sequence[Fragment], size: int) -> Stored:
        """As put_file, with a new file of these fragments. Chunks that are known already come with a repeated request:
        they take no other file's place, and those that belong to none are dead."""
        file_id = files.create(connection, size, len(fragments))[0]
        stored = self.put_file(
            connection, digest, size, file_id, lambda: fragment_rows.any_known(connection, fragments)
        )
        # Chunks are recorded only now: a repetition of this request that runs beside it holds the same ones.
        if stored.file_id == file_id:
            fragment_rows.record(connection, file_id, fragments)
        else:
            fragment_rows.kill_file(connection, file_id)
            fragment_rows.kill(connection, fragments)
        return stored

    def unlinked(self, connection: Connection, digest: str) -> Stored | None:
        """The content if no repository has it any more, locked so that none can get it."""
        row = connection.execute(self._lock_alone, {"of_digest": digest}).one()
        # A statement of its own: it sees the links of those that the lock waited for.
        if connection.scalar(self._linked, {"of_digest": digest}) is not None:
            return None
        return Stored(row.size, row.file_id)

    def remove(self, connection: Connection, digest: str, stored: Stored) -> None:
        """Remove what `unlinked` gave; its chunks become dead."""
        connection.execute(self._delete, {"of_digest": digest})
        fragment_rows.kill_file(connection, stored.file_id)


BLOBS = ContentTable(m.blobs, m.repository_blobs, "blobs", {"damaged_s": None})
MANIFESTS = ContentTable(m.manifests, m.repository_manifests, "manifests")
