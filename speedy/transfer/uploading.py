"""One blob on its way into a repository: found there, mounted, or sent piece by piece in a session that can go on.

What is on record in the cache is only the session's address; how far it is, the registry is asked. The digest of all
bytes is computed here too, also of those that an earlier run sent, so that a file that changed meanwhile, or a damaged
one, never gets its name.

A registry that refuses pieces gets the whole blob in one PUT. One that loses a session (docker-registry 2.x does when a
request is cut in the middle) gets it again from the start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from speedy.transfer.cache import SavedSession
from speedy.transfer.content import Content, RunningDigest
from speedy.transfer.documents import Descriptor
from speedy.transfer.errors import Damaged, Refused, TransferError
from speedy.transfer.patience import Patience, RetryLimits, Stop
from speedy.transfer.progress import Bar
from speedy.transfer.repository import Repository, Session

#: up to this size a blob goes into the closing PUT: two requests instead of three
_SMALL_BYTES: Final = 1 << 20
_RESTARTS_MAX: Final = 8
_MOUNTS_MAX: Final = 3
#: what registries call a session that they no longer have, or no longer want
_LOST: Final = frozenset({"BLOB_UPLOAD_UNKNOWN", "BLOB_UPLOAD_INVALID"})


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """`piece_bytes`: a body of one request; so much is lost at most where a registry forgets what it got of it."""

    piece_bytes: int
    retries: RetryLimits


class Upload:
    """Of `content`, which `blob` names. Each is used once: `run`, by one thread."""

    def __init__(
        self,
        repository: Repository,
        blob: Descriptor,
        content: Content,
        *,
        saved: SavedSession,
        mount_from: Sequence[str],
        limits: UploadLimits,
        bar: Bar,
        stop: Stop,
        tell: Callable[[str], None],
    ) -> None:
        self._repository, self._blob, self._content, self._saved = repository, blob, content, saved
        self._mount_from = list(mount_from)[:_MOUNTS_MAX]
        self._limits, self._bar, self._stop, self._tell = limits, bar, stop, tell
        self._patience = Patience(limits.retries, stop, tell)
        self._location: str | None = None
        self._offset = 0
        self._offset_is_known = False
        self._is_whole = blob.size <= _SMALL_BYTES
        self._is_resumed = False
        self._is_checked = False
        self._restarts = self._mismatches = 0
        self._piece_bytes = limits.piece_bytes
        self._algorithm = blob.digest.partition(":")[0]
        self._running: RunningDigest | None = None
        self.bytes_sent = 0

    def run(self) -> str:
        """How the blob came there: "exists", "mounted", "pushed". Raises TransferError."""
        self._location = None if self._is_whole else self._saved.location()
        self._is_resumed = self._location is not None
        try:
            while True:
                self._stop.check()
                try:
                    return self._try()
                except TransferError as error:
                    self._judge(error)
        finally:
            if self._running is not None:
                self._running.close()

    def _try(self) -> str:
        """Goes on from wherever the upload is, to its end."""
        if self._location is None or not self._offset_is_known:
            if self._repository.has_blob(self._blob.digest, self._blob.size):
                self._abandon()
                return "exists"
            if self._location is not None:
                self._ask()
        if self._location is None and self._open():
            return "mounted"
        if self._is_whole:
            self._send_whole()
        else:
            while self._offset < self._blob.size:
                self._stop.check()
                self._send_piece()
            self._check_digest()
            self._stop.check_overdue()
            self._repository.close_upload(self._current(), self._blob.digest)
        self._saved.clear()
        return "pushed"

    def _open(self) -> bool:
        """True: it was mounted. What stands in the way of a mount is no failure: then the bytes are sent."""
        while self._mount_from:
            source = self._mount_from.pop(0)
            try:
                session = self._repository.open_upload(self._blob.digest, source)
            except Refused as error:
                if error.retryable:
                    raise
                continue
            if session is None:
                return True
            if not self._mount_from:
                self._begin(session)
                return False
            self._repository.cancel_upload(session.location)
        session = self._repository.open_upload(self._blob.digest)
        if session is None:
            return True
        self._begin(session)
        return False

    def _begin(self, session: Session) -> None:
        self._piece_bytes = max(self._limits.piece_bytes, session.piece_bytes_min)
        self._take(session, expected=0)

    def _ask(self) -> None:
        """How far the session is; forgets it where the registry has."""
        try:
            session = self._repository.upload_status(self._current())
        except Refused as error:
            if error.retryable or error.answered in (401, 403):
                raise
            self._lose("the registry no longer knows the upload")
            return
        if not session.offset or session.offset > self._blob.size:
            # "0-0" may be one byte: a session without bytes is not worth the doubt.
            self._lose("")
            return
        self._is_resumed = True
        self._take(session, expected=session.offset)

    def _send_piece(self) -> None:
        start, end = self._offset, min(self._offset + self._piece_bytes, self._blob.size)
        self._hash_up_to(start)
        session = self._repository.append(self._current(), start, end, lambda: self._pieces(start, end))
        if session.offset is not None and session.offset > end:
            raise Damaged(f"{self._blob.digest}: the registry has {session.offset} bytes of the {end} that were sent")
        # "0-0" after a piece: the registry does not say how far it is.
        self._take(session, expected=session.offset or end)
        if self._offset > start:
            self._mismatches = 0
            self._patience.progressed()

    def _send_whole(self) -> None:
        size = self._blob.size
        self._check_digest()
        self._repository.close_upload(self._current(), self._blob.digest, lambda: self._pieces(0, size), size)

    def _pieces(self, start: int, end: int) -> Iterator[bytes]:
        """Bytes for the socket; what was not hashed yet is hashed beside."""
        running = self._digest()
        position = start
        for piece in self._content.pieces(start, end - start):
            self._stop.check_overdue()
            self._bar.at(position)
            yield piece
            fresh = 0 if self._is_checked else position + len(piece) - running.position
            if fresh > 0:
                running.update(piece[-fresh:] if fresh < len(piece) else piece)
            position += len(piece)
            self.bytes_sent += len(piece)
        self._bar.at(position)

    def _hash_up_to(self, offset: int) -> None:
        """The bytes that an earlier run has sent."""
        running = self._digest()
        if running.position < offset:
            for piece in self._content.pieces(running.position, offset - running.position):
                self._stop.check()
                running.update(piece)

    def _check_digest(self) -> None:
        """Before the blob gets its name. Raises Damaged where the file is not what it was taken for."""
        if self._is_checked:
            return
        self._hash_up_to(self._blob.size)
        found = self._digest().digest()
        if found != self._blob.digest:
            self._abandon()
            raise Damaged(
                f"{self._content.path} is damaged: its bytes have the digest {found} instead of {self._blob.digest}. "
                "The registry was not given them."
            )
        self._is_checked = True

    def _digest(self) -> RunningDigest:
        if self._running is None:
            self._running = RunningDigest(self._algorithm)
        return self._running

    def _judge(self, error: TransferError) -> None:
        """After a failure: raises it, or sets up the next try."""
        self._offset_is_known = False
        if error.retryable:
            if self._is_whole:
                self._location = None  # a PUT that was cut may have left bytes in the session
            self._patience.failed(error)
            return
        if not isinstance(error, Refused) or error.answered in (401, 403, 413, 507) or self._location is None:
            raise error
        is_lost = error.answered in (404, 410) or bool(error.codes & _LOST)
        if "DIGEST_INVALID" in error.codes:
            if not self._is_resumed:
                raise Damaged(f"the registry took {self._blob.digest} for something else: {error.message}") from error
            self._lose("the registry has other bytes from an earlier try", error)
        elif error.answered == 416 and self._mismatches == 0:
            self._mismatches += 1  # somebody else, or an answer that was lost: the registry is asked how far it is
        elif is_lost and (self._offset > 0 or self._is_resumed):
            self._lose(f"the upload was lost ({error.message})", error)
        elif not self._is_whole and self._offset < self._blob.size:
            self._tell(f"{self._repository.name}: the registry takes no pieces ({error.message}); sending it whole")
            self._abandon()
            self._is_whole = True
        else:
            raise error

    def _lose(self, why: str, error: TransferError | None = None) -> None:
        """From the start again."""
        self._restarts += 1
        if self._restarts > _RESTARTS_MAX:
            raise error or TransferError(f"{self._blob.digest}: the registry forgets each upload: {why}")
        if why:
            self._tell(f"{self._repository.name}: {why}; sending the blob from the start")
        self._abandon()
        self._bar.at(0)

    def _abandon(self) -> None:
        """Forgets the session, and lets the registry do the same where it answers."""
        location, self._location = self._location, None
        self._offset, self._offset_is_known, self._is_resumed = 0, False, False
        self._saved.clear()
        if location is not None:
            try:
                self._repository.cancel_upload(location)
            except TransferError:
                return  # it ends by itself after some days

    def _take(self, session: Session, expected: int) -> None:
        self._location, self._offset, self._offset_is_known = session.location, expected, True
        if not self._is_whole:
            self._saved.save(session.location, repository=self._repository.name, digest=self._blob.digest)
        self._bar.at(expected)

    def _current(self) -> str:
        assert self._location is not None, "a session is open"
        return self._location
