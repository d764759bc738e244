"""Files of fragments: metaserver.interface.FileStore over SQL."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, and_, bindparam, exc, insert, literal, select, update

from metaserver import fragment_rows
from metaserver.checks import (
    FID_MAX,
    PATH_BYTES_MAX,
    check_file_id,
    check_fragments,
    check_limit,
    check_name,
    check_path,
    check_prefix,
)
from metaserver.interface import FileInfo, Fragment
from metaserver.models import SqlRow, blobs, files, fragments, manifests, uploads
from metaserver.transactions import Transactions
from wire.database import now_s
from wire.errors import BadRequest, Conflict, FileExists, FileNotFound, UploadConflict

_INFO = (files.c.file_id, files.c.path, files.c.size, files.c.created_s)
_CREATE = insert(files).values(created_s=now_s()).returning(files.c.file_id, files.c.created_s)
_LOCK = (
    select(*_INFO, select(literal(1)).where(uploads.c.file_id == files.c.file_id).exists().label("of_upload"))
    .where(files.c.file_id == bindparam("of_file"))
    .with_for_update(of=files)
)
_LOCK_PATH = (
    select(
        files.c.file_id,
        select(literal(1)).where(blobs.c.file_id == files.c.file_id).exists().label("of_blob"),
        select(literal(1)).where(manifests.c.file_id == files.c.file_id).exists().label("of_manifest"),
    )
    .where(files.c.path == bindparam("of_path"))
    .with_for_update(of=files)
)
_GROW = (
    update(files)
    .where(files.c.file_id == bindparam("of_file"))
    .values(size=bindparam("new_size"), fragments=files.c.fragments + bindparam("more"))
)
_NAME = update(files).where(files.c.file_id == bindparam("of_file")).values(path=bindparam("new_path"))
_STAT = select(*_INFO).where(files.c.path == bindparam("of_path"))
_FRAGMENTS = (
    select(fragments.c.offset, fragments.c.length, fragments.c.fid, fragments.c.group_id, fragments.c.crc32c)
    .select_from(files.outerjoin(fragments, fragments.c.file_id == files.c.file_id))
    .where(files.c.file_id == bindparam("of_file"))
    .order_by(fragments.c.offset)
)
_BETWEEN = (
    select(*_INFO)
    .where(and_(files.c.path > bindparam("after"), files.c.path < bindparam("end")))
    .order_by(files.c.path)
    .limit(bindparam("row_count"))
)
_ALL = select(*_INFO).where(files.c.path > bindparam("after")).order_by(files.c.path).limit(bindparam("row_count"))


def create(connection: Connection, size: int = 0, count: int = 0) -> tuple[int, float]:
    """A new open file, that will have so many bytes and fragments (recorded by the caller): its id and when it was
    made."""
    row: SqlRow = connection.execute(_CREATE, {"size": size, "fragments": count}).one()
    return row.file_id, row.created_s


def grow(connection: Connection, file_id: int, new: Sequence[Fragment], new_size: int) -> None:
    """Append checked fragments. The caller holds the lock of the file's row, or of the row that owns the file."""
    fragment_rows.record(connection, file_id, new)
    connection.execute(_GROW, {"of_file": file_id, "new_size": new_size, "more": len(new)})


def name(connection: Connection, file_id: int, path: str) -> None:
    """Raises FileExists."""
    try:
        connection.execute(_NAME, {"of_file": file_id, "new_path": path})
    except exc.IntegrityError as error:
        raise FileExists(f"there is another file at {path!r}") from error


class Files(Transactions):
    """FileStore's promises are in metaserver.interface."""

    def create_file(self) -> int:
        return self._write(lambda connection: create(connection)[0])

    def append_fragments(self, file_id: int, expected_size: int, fragments: Sequence[Fragment]) -> int:
        check_file_id(file_id)
        new_size = check_fragments(fragments, expected_size)

        def append(connection: Connection) -> int:
            row = _lock_open(connection, file_id)
            if row.size != expected_size:
                if fragment_rows.holds_at(connection, file_id, fragments):
                    return new_size
                message = f"file {file_id} has {row.size} bytes, not {expected_size}"
                raise UploadConflict(message, offset=row.size)
            if fragments:
                grow(connection, file_id, fragments, new_size)
            return new_size

        return self._write(append)

    def commit_file(self, file_id: int, path: str) -> FileInfo:
        check_file_id(file_id)
        check_path(path)

        def commit(connection: Connection) -> FileInfo:
            row = _lock(connection, file_id)
            if row.path is not None and row.path != path:
                raise FileExists(f"file {file_id} is committed as {row.path!r} already")
            if row.path is None:
                name(connection, file_id, path)
            return FileInfo(row.file_id, path, row.size, row.created_s)

        return self._write(commit)

    def stat(self, path: str) -> FileInfo:
        check_path(path)
        row = self._read(lambda connection: connection.execute(_STAT, {"of_path": path}).one_or_none())
        if row is None:
            raise FileNotFound(f"there is no file {path!r}")
        return _info(row)

    def fragments(self, file_id: int) -> tuple[Fragment, ...]:
        check_file_id(file_id)
        rows = self._read(lambda connection: connection.execute(_FRAGMENTS, {"of_file": file_id}).all())
        if not rows:
            raise FileNotFound(f"there is no file {file_id}")
        # An empty file joins to one row of nulls.
        return tuple(fragment_rows.as_fragment(row) for row in rows if row[0] is not None)

    def list_files(self, prefix: str, after: str = "", limit: int = 1000) -> list[FileInfo]:
        check_prefix(prefix)
        check_name("after", after, empty=True, bytes_max=PATH_BYTES_MAX)
        check_limit(limit)

        def list_rows(connection: Connection) -> list[FileInfo]:
            if not prefix:
                rows = connection.execute(_ALL, {"after": after, "row_count": limit})
                return [_info(row) for row in rows]
            # `a/b` and `a/b/...` are no single range of byte order: `a/b-c` lies between them.
            below = {"after": max(after, f"{prefix}/", key=str.encode), "end": f"{prefix}0", "row_count": limit}
            found = []
            if after.encode() < prefix.encode():
                found = [_info(row) for row in connection.execute(_STAT, {"of_path": prefix})]
            if len(found) < limit:
                found += [_info(row) for row in connection.execute(_BETWEEN, below)]
            return found[:limit]

        return self._read(list_rows)

    def move(self, source: str, destination: str) -> None:
        check_path(source)
        check_path(destination)

        def rename(connection: Connection) -> None:
            file_id = _lock_path(connection, source)
            if source != destination:
                name(connection, file_id, destination)

        self._write(rename)

    def delete_file(self, path: str) -> bool:
        check_path(path)

        def delete(connection: Connection) -> bool:
            try:
                file_id = _lock_path(connection, path)
            except FileNotFound:
                return False
            fragment_rows.kill_file(connection, file_id)
            return True

        return self._write(delete)

    def abandon_file(self, file_id: int) -> bool:
        check_file_id(file_id)

        def abandon(connection: Connection) -> bool:
            try:
                _lock_open(connection, file_id)
            except FileNotFound:
                return False
            fragment_rows.kill_file(connection, file_id)
            return True

        return self._write(abandon)

    def give_up_fragments(self, fragments: Sequence[Fragment]) -> None:
        check_fragments(fragments, fragments[0].offset if fragments else 0)
        if fragments:
            self._write(lambda connection: fragment_rows.kill(connection, fragments))

    def dead_fragments(self, min_age_s: float, limit: int = 1000) -> list[Fragment]:
        check_limit(limit)
        return self._read(lambda connection: fragment_rows.dead_since(connection, min_age_s, limit))

    def forget_dead_fragments(self, fids: Sequence[int]) -> None:
        if any(not 0 < fid <= FID_MAX for fid in fids):
            raise BadRequest("a fid is out of range")
        if fids:
            self._write(lambda connection: fragment_rows.forget(connection, fids))


def _lock(connection: Connection, file_id: int) -> SqlRow:
    row: SqlRow | None = connection.execute(_LOCK, {"of_file": file_id}).one_or_none()
    if row is None:
        raise FileNotFound(f"there is no file {file_id}")
    if row.of_upload:
        # Its digest state would no longer cover its bytes.
        raise Conflict(f"file {file_id} belongs to an upload session")
    return row


def _lock_open(connection: Connection, file_id: int) -> SqlRow:
    """Raises FileNotFound for a committed file too: as an open file it is not there."""
    row = _lock(connection, file_id)
    if row.path is not None:
        raise FileNotFound(f"there is no open file {file_id}: it is committed as {row.path!r}")
    return row


def _lock_path(connection: Connection, path: str) -> int:
    row = connection.execute(_LOCK_PATH, {"of_path": path}).one_or_none()
    if row is None:
        raise FileNotFound(f"there is no file {path!r}")
    if row.of_blob or row.of_manifest:
        raise Conflict(f"{path!r} holds a blob or manifest of the catalogue; delete that instead")
    return int(row.file_id)


def _info(row: SqlRow) -> FileInfo:
    assert row.path is not None
    return FileInfo(row.file_id, row.path, row.size, row.created_s)
