"""Where the storage driver's progress goes while a stream is written, and where bytes that are in memory already come
from."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final
from uuid import uuid4

from metaserver.interface import Fragment, MetaStore, Upload
from registry_driver.driver import WriteProgress
from wire.errors import SpeedyError, UploadConflict, UploadUnknown

_log = logging.getLogger("speedy.registry")

#: what the MetaStore says when somebody else advanced or ended the session: these fragments are not recorded, but for
#: a call that was repeated after its answer was lost
LOST_RACE: Final = (UploadConflict, UploadUnknown)


def give_up(meta: MetaStore, fragments: Sequence[Fragment]) -> None:
    """Fragments that lost a race will not be recorded. The MetaStore spares those that are all the same."""
    if not fragments:
        return
    try:
        meta.give_up_fragments(fragments)
    except SpeedyError as exc:
        _log.warning("chunks that nobody needs stay behind", extra={"chunks": len(fragments), "error": str(exc)})


class SessionRecorder:
    """Records progress in an upload's row. `offset` is what the row holds."""

    def __init__(self, meta: MetaStore, upload: Upload) -> None:
        self._meta = meta
        self._upload = upload
        self.offset = upload.offset

    def __call__(self, progress: WriteProgress) -> None:
        """Raises UploadUnknown (cancelled meanwhile), UploadConflict (another request advanced it)."""
        if not progress.fragments:
            return
        upload = self._upload
        try:
            self._meta.advance_upload(
                upload.repository, upload.upload_id, self.offset, progress.fragments, progress.digest_state
            )
        except LOST_RACE:
            give_up(self._meta, progress.fragments)
            raise
        self.offset = progress.offset


class LateSession:
    """Records the progress of a push in one request: in a session that is opened only when there is something to
    record.

    A small blob needs none and costs one metadata call. A large one needs rows for what is stored before its end: they
    keep its chunks from being swept as unnamed, and free them when this process dies.
    """

    def __init__(self, meta: MetaStore, repository: str, empty_state: bytes) -> None:
        self._meta = meta
        self._repository = repository
        self._empty_state = empty_state
        self._recorder: SessionRecorder | None = None
        self.upload_id: str | None = None

    @property
    def offset(self) -> int:
        return 0 if self._recorder is None else self._recorder.offset

    def __call__(self, progress: WriteProgress) -> None:
        if not progress.fragments:
            return
        if self._recorder is None:
            # The id is kept before the call: a session whose answer is lost can still be ended.
            self.upload_id = str(uuid4())
            upload = self._meta.create_upload(self._repository, self.upload_id, self._empty_state)
            self._recorder = SessionRecorder(self._meta, upload)
        self._recorder(progress)


class Collected:
    """Keeps progress in memory, for files that are small."""

    def __init__(self) -> None:
        self.fragments: list[Fragment] = []

    def __call__(self, progress: WriteProgress) -> None:
        self.fragments.extend(progress.fragments)


class BytesSource:
    """A ByteSource over bytes in memory."""

    def __init__(self, body: bytes) -> None:
        self._left = memoryview(body)

    def readinto(self, buffer: memoryview) -> int:
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count
