"""Rows of fragments, live and dead. Every function runs in its caller's transaction.

A chunk is live (in `fragments`, exactly once), dead (in `dead_fragments`), or unknown. It becomes dead when its file
goes, or when a request brings chunks that turn out not to be needed. Requests are repeated when an answer was lost, so
chunks that are brought a second time may be live already: those never become dead. And what is dead may be deleted any
moment: it never becomes live again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from sqlalchemy import Connection, bindparam, delete, exc, insert, literal, select
from sqlalchemy.dialects import postgresql, sqlite

from metaserver.interface import Fragment
from metaserver.models import SqlRow, dead_fragments, files, fragments
from wire.database import now_s
from wire.errors import ChunkDead, Conflict

T = TypeVar("T")

#: values in one IN (...): SQLite takes 32,766, and plans stay small
IN_MAX = 1000

_COLUMNS = (fragments.c.offset, fragments.c.length, fragments.c.fid, fragments.c.group_id, fragments.c.crc32c)
_INSERT = insert(fragments)
_TAIL = (
    select(*_COLUMNS)
    .where(fragments.c.file_id == bindparam("file_id"), fragments.c.offset >= bindparam("start"))
    .order_by(fragments.c.offset)
    .limit(bindparam("row_count"))
)
_DEAD_AMONG = select(dead_fragments.c.fid).where(dead_fragments.c.fid.in_(bindparam("fids", expanding=True)))
_LIVE_AMONG = select(fragments.c.fid).where(fragments.c.fid.in_(bindparam("fids", expanding=True)))
_DELETE_OF_FILE = delete(fragments).where(fragments.c.file_id == bindparam("of_file"))
_DELETE_FILE = delete(files).where(files.c.file_id == bindparam("of_file"))
_DEAD_COLUMNS = ["offset", "length", "fid", "group_id", "crc32c", "dead_s"]
_DEAD_OF_FILE = select(*_COLUMNS, now_s()).where(fragments.c.file_id == bindparam("of_file"))
_KILL_FILE = {
    "postgresql": postgresql.insert(dead_fragments).from_select(_DEAD_COLUMNS, _DEAD_OF_FILE).on_conflict_do_nothing(),
    "sqlite": sqlite.insert(dead_fragments).from_select(_DEAD_COLUMNS, _DEAD_OF_FILE).on_conflict_do_nothing(),
}
_KILL = {
    "postgresql": postgresql.insert(dead_fragments).values(dead_s=now_s()).on_conflict_do_nothing(),
    "sqlite": sqlite.insert(dead_fragments).values(dead_s=now_s()).on_conflict_do_nothing(),
}
_FORGET = delete(dead_fragments).where(dead_fragments.c.fid.in_(bindparam("fids", expanding=True)))
_DEAD_SINCE = (
    select(
        dead_fragments.c.offset,
        dead_fragments.c.length,
        dead_fragments.c.fid,
        dead_fragments.c.group_id,
        dead_fragments.c.crc32c,
    )
    .where(dead_fragments.c.dead_s <= now_s() - bindparam("min_age_s"))
    # Two requests with the same chunks may cross, one keeping and one giving them up: live wins.
    .where(~select(literal(1)).where(fragments.c.fid == dead_fragments.c.fid).exists())
    .order_by(dead_fragments.c.dead_s, dead_fragments.c.fid)
    .limit(bindparam("row_count"))
)


def record(connection: Connection, file_id: int, new: Sequence[Fragment]) -> None:
    """Make `new` (checked to continue the file) fragments of the file. Raises ChunkDead for a dead chunk,
    Conflict when another file has one of the chunks."""
    if not new:
        return
    for fids in _slices([fragment.fid for fragment in new]):
        dead = connection.scalars(_DEAD_AMONG, {"fids": fids}).first()
        if dead is not None:
            raise ChunkDead(f"chunk {dead} was given up and may be deleted already")
    try:
        connection.execute(_INSERT, [_values(fragment) | {"file_id": file_id} for fragment in new])
    except exc.IntegrityError as error:
        raise Conflict(f"a chunk of file {file_id} belongs to another file already") from error


def holds_at(connection: Connection, file_id: int, expected: Sequence[Fragment]) -> bool:
    """Whether the file has exactly these fragments at their place (others may follow): the request is a repeated
    one."""
    if not expected:
        return False
    rows = connection.execute(
        _TAIL, {"file_id": file_id, "start": expected[0].offset, "row_count": len(expected)}
    ).all()
    return [as_fragment(row) for row in rows] == list(expected)


def any_known(connection: Connection, brought: Sequence[Fragment]) -> bool:
    """Whether one of the chunks is live or dead already, so that it came before."""
    for some in _slices([fragment.fid for fragment in brought]):
        for known in (_LIVE_AMONG, _DEAD_AMONG):
            if connection.scalars(known, {"fids": some}).first() is not None:
                return True
    return False


def kill(connection: Connection, unwanted: Sequence[Fragment]) -> None:
    """Chunks that were stored for nothing become dead, save those that a file has."""
    for some in _slices(unwanted):
        live = set(connection.scalars(_LIVE_AMONG, {"fids": [fragment.fid for fragment in some]}))
        dead = [_values(fragment) for fragment in some if fragment.fid not in live]
        if dead:
            connection.execute(_KILL[connection.dialect.name], dead)


def kill_file(connection: Connection, file_id: int) -> None:
    """Remove the file; its chunks become dead. The caller holds the lock of whatever named the file."""
    connection.execute(_KILL_FILE[connection.dialect.name], {"of_file": file_id})
    connection.execute(_DELETE_OF_FILE, {"of_file": file_id})
    connection.execute(_DELETE_FILE, {"of_file": file_id})


def dead_since(connection: Connection, min_age_s: float, limit: int) -> list[Fragment]:
    rows = connection.execute(_DEAD_SINCE, {"min_age_s": min_age_s, "row_count": limit})
    return [as_fragment(row) for row in rows]


def forget(connection: Connection, fids: Sequence[int]) -> None:
    for some in _slices(fids):
        connection.execute(_FORGET, {"fids": some})


def as_fragment(row: SqlRow) -> Fragment:
    return Fragment(row[0], row[1], row[2], row[3], row[4])


def _values(fragment: Fragment) -> dict[str, int]:
    return {
        "offset": fragment.offset,
        "length": fragment.length,
        "fid": fragment.fid,
        "group_id": fragment.group_id,
        "crc32c": fragment.crc32c,
    }


def _slices(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), IN_MAX):
        yield items[start : start + IN_MAX]
