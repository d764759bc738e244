"""Upload sessions: the uploads of metaserver.interface.Catalogue over SQL.

The session's row is locked first in every transaction, so the requests of one upload follow each other.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from metaserver import blobs, files, fragment_rows, repository_rows
from metaserver import models as m
from metaserver.checks import check_digest, check_fragments, check_name
from metaserver.content import BLOBS
from metaserver.interface import Blob, Fragment, Upload
from metaserver.transactions import Transactions
from wire.database import now_s
from wire.errors import BadRequest, Conflict, UploadConflict, UploadUnknown

#: a digest state is about 200 bytes; whatever is far above is no digest state
DIGEST_STATE_BYTES_MAX = 4096

_SELECT = (
    select(
        m.uploads.c.upload_id,
        m.uploads.c.repository,
        m.uploads.c.file_id,
        m.files.c.size,
        m.files.c.fragments,
        m.uploads.c.digest_state,
        m.uploads.c.started_s,
    )
    .join_from(m.uploads, m.files, m.files.c.file_id == m.uploads.c.file_id)
    .where(m.uploads.c.upload_id == bindparam("of_upload"))
)
# Both rows: the file's size was read before a wait for the lock of the session's row alone would end.
_LOCK = _SELECT.with_for_update()
_INSERT = {
    "postgresql": postgresql.insert(m.uploads).on_conflict_do_nothing(),
    "sqlite": sqlite.insert(m.uploads).on_conflict_do_nothing(),
}
_SET_STATE = (
    update(m.uploads)
    .where(m.uploads.c.upload_id == bindparam("of_upload"))
    .values(digest_state=bindparam("new_state"), advanced_s=now_s())
)
# Skipping what is locked: a session that is being advanced is not idle, one that is being ended needs no second end.
_LONGEST_IDLE = (
    select(m.uploads.c.upload_id, m.uploads.c.file_id)
    .where(m.uploads.c.advanced_s <= now_s() - bindparam("idle_s"))
    .order_by(m.uploads.c.advanced_s)
    .limit(1)
    .with_for_update(skip_locked=True)
)
_DELETE = delete(m.uploads).where(m.uploads.c.upload_id == bindparam("of_upload"))


class Uploads(Transactions):
    def create_upload(self, repository: str, upload_id: str, digest_state: bytes) -> Upload:
        _check(repository, upload_id)
        _check_state(digest_state)

        def create(connection: Connection) -> Upload:
            row = _find(connection, upload_id)
            if row is None:
                file_id, now = files.create(connection)
                values = {
                    "upload_id": upload_id,
                    "repository": repository,
                    "file_id": file_id,
                    "digest_state": digest_state,
                    "started_s": now,
                    "advanced_s": now,
                }
                if connection.execute(_INSERT[connection.dialect.name], values).rowcount == 1:
                    return Upload(upload_id, repository, file_id, 0, 0, digest_state, now)
                fragment_rows.kill_file(connection, file_id)  # the same request ran beside this one and was first
                row = _find(connection, upload_id)
            if row is None or row.repository != repository:
                raise Conflict(f"the upload id {upload_id} is taken")
            return _upload(row)

        return self._write(create)

    def upload(self, repository: str, upload_id: str) -> Upload:
        _check(repository, upload_id)
        row = self._read(lambda connection: _find(connection, upload_id))
        return _upload(_of_repository(row, repository, upload_id))

    def advance_upload(
        self, repository: str, upload_id: str, expected_offset: int, fragments: Sequence[Fragment], digest_state: bytes
    ) -> Upload:
        _check(repository, upload_id)
        _check_state(digest_state)
        new_size = check_fragments(fragments, expected_offset)

        def advance(connection: Connection) -> Upload:
            row = _lock(connection, repository, upload_id)
            if row.size != expected_offset:
                # Only the last advance may come again: an older one's digest state is outdated.
                if row.size == new_size and fragment_rows.holds_at(connection, row.file_id, fragments):
                    return _upload(row)
                raise _conflict(row, expected_offset)
            if fragments:
                files.grow(connection, row.file_id, fragments, new_size)
            connection.execute(_SET_STATE, {"of_upload": upload_id, "new_state": digest_state})
            count = row.fragments + len(fragments)
            return Upload(upload_id, repository, row.file_id, new_size, count, digest_state, row.started_s)

        return self._write(advance)

    def finish_upload(
        self, repository: str, upload_id: str, expected_offset: int, fragments: Sequence[Fragment], digest: str
    ) -> Blob:
        _check(repository, upload_id)
        check_digest(digest)
        new_size = check_fragments(fragments, expected_offset)

        def finish(connection: Connection) -> Blob:
            row = _find(connection, upload_id, lock=True)
            if row is None:
                blob = blobs.find(connection, repository, digest)
                if blob is None:
                    raise UploadUnknown(f"there is no upload {upload_id} in {repository}")
                # Not always the first request come again: another one with the same last bytes may have been first.
                fragment_rows.kill(connection, fragments)
                return blob
            _of_repository(row, repository, upload_id)
            if row.size != expected_offset:
                raise _conflict(row, expected_offset)
            # The session's row points at the file, so it goes before the file may.
            connection.execute(_DELETE, {"of_upload": upload_id})
            repository_rows.keep(connection, repository)
            stored = BLOBS.put_file(connection, digest, new_size, row.file_id)
            if fragments:
                files.grow(connection, row.file_id, fragments, new_size)
            blobs.link(connection, repository, digest)
            return Blob(digest, stored.size, stored.file_id)

        return self._write(finish)

    def cancel_upload(self, repository: str, upload_id: str) -> None:
        _check(repository, upload_id)

        def cancel(connection: Connection) -> None:
            row = _lock(connection, repository, upload_id)
            connection.execute(_DELETE, {"of_upload": upload_id})
            fragment_rows.kill_file(connection, row.file_id)

        self._write(cancel)

    def expire_upload(self, idle_s: float) -> str | None:
        def expire(connection: Connection) -> str | None:
            row = connection.execute(_LONGEST_IDLE, {"idle_s": idle_s}).one_or_none()
            if row is None:
                return None
            connection.execute(_DELETE, {"of_upload": row.upload_id})
            fragment_rows.kill_file(connection, row.file_id)
            return str(row.upload_id)

        return self._write(expire)


def _find(connection: Connection, upload_id: str, *, lock: bool = False) -> m.SqlRow | None:
    row: m.SqlRow | None = connection.execute(_LOCK if lock else _SELECT, {"of_upload": upload_id}).one_or_none()
    return row


def _lock(connection: Connection, repository: str, upload_id: str) -> m.SqlRow:
    return _of_repository(_find(connection, upload_id, lock=True), repository, upload_id)


def _of_repository(row: m.SqlRow | None, repository: str, upload_id: str) -> m.SqlRow:
    if row is None or row.repository != repository:
        raise UploadUnknown(f"there is no upload {upload_id} in {repository}")
    return row


def _upload(row: m.SqlRow) -> Upload:
    return Upload(*row)


def _conflict(row: m.SqlRow, expected_offset: int) -> UploadConflict:
    return UploadConflict(f"upload {row.upload_id} has {row.size} bytes, not {expected_offset}", offset=row.size)


def _check(repository: str, upload_id: str) -> None:
    check_name("the repository", repository)
    check_name("the upload id", upload_id)


def _check_state(digest_state: bytes) -> None:
    if len(digest_state) > DIGEST_STATE_BYTES_MAX:
        raise BadRequest(f"a digest state of {len(digest_state)} bytes; at most {DIGEST_STATE_BYTES_MAX} are allowed")
