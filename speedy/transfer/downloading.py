"""One blob on its way out of a registry, into a partial file of an OCI layout: by Range from wherever that file ends.

What an earlier run left is read again for its digest. A blob is named by its content, so nothing else (ETag, date) is
asked; it gets its place only when the digest of all its bytes is the one that it is named by.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

from speedy.transfer.content import Content, RunningDigest, digest_of_content
from speedy.transfer.documents import Descriptor
from speedy.transfer.errors import Damaged, TransferError, Unreachable
from speedy.transfer.layout import Layout, Partial
from speedy.transfer.patience import Patience, RetryLimits, Stop
from speedy.transfer.progress import Bar
from speedy.transfer.repository import Repository


class Download:
    """Of `blob`. Each is used once: `run`, by one thread."""

    def __init__(
        self,
        repository: Repository,
        blob: Descriptor,
        layout: Layout,
        *,
        retries: RetryLimits,
        bar: Bar,
        stop: Stop,
        tell: Callable[[str], None],
    ) -> None:
        self._repository, self._blob, self._layout = repository, blob, layout
        self._bar, self._stop, self._tell = bar, stop, tell
        self._patience = Patience(retries, stop, tell)
        self.bytes_received = 0

    def run(self) -> str:
        """How the blob came there: "exists", "pulled". Raises TransferError."""
        if self._is_there():
            return "exists"
        with self._layout.partial(self._blob.digest, self._stop) as partial:
            if self._is_there():  # another run fetched it, and this one waited
                partial.path.unlink()
                return "exists"
            is_resumed = partial.size > 0
            if not self._fill(partial):
                if not is_resumed:
                    raise Damaged(self._wrong())
                self._tell(f"{self._blob.digest}: what an earlier run left is wrong; fetching it from the start")
                if not self._fill(partial):
                    raise Damaged(self._wrong())
            self._layout.keep(partial, self._blob.digest)
        return "pulled"

    def _is_there(self) -> bool:
        """Read again, not believed: a copy that got damaged is fetched anew."""
        path = self._layout.blob_path(self._blob.digest)
        if not path.is_file():
            return False
        content = Content.of_file(path)
        algorithm = self._blob.digest.partition(":")[0]
        is_right = content.size == self._blob.size
        if is_right and digest_of_content(content, algorithm, self._stop.check) == self._blob.digest:
            return True
        self._tell(f"{path} is damaged; fetching it again")
        return False

    def _fill(self, partial: Partial) -> bool:
        """The whole blob in `file`. False: it has another digest, and the file is empty again."""
        with RunningDigest(self._blob.digest.partition(":")[0]) as running:
            self._take_over(partial, running)
            while running.position < self._blob.size:
                before = running.position
                try:
                    self._fetch(partial.file, running)
                except TransferError as error:
                    if running.position > before:
                        self._patience.progressed()
                    if not error.retryable:
                        raise
                    self._patience.failed(error)
            if running.digest() == self._blob.digest:
                return True
        partial.file.truncate(0)
        return False

    def _take_over(self, partial: Partial, running: RunningDigest) -> None:
        """What an earlier run left: into the digest."""
        size = partial.size if partial.size <= self._blob.size else 0
        partial.file.truncate(size)
        for piece in Content(partial.path, 0, size).pieces():
            self._stop.check()
            running.update(piece)
        partial.file.seek(size)
        self._bar.at(size)

    def _fetch(self, file: BinaryIO, running: RunningDigest) -> None:
        """One request: bytes into the file and the digest until they end. Raises Damaged for more than there may be."""
        self._stop.check()
        answer, position = self._repository.read_blob(self._blob.digest, running.position)
        with answer:
            for received in answer.pieces():
                self._stop.check()
                # A registry without ranges begins anew: what is there already is passed over.
                piece = received[max(0, running.position - position) :]
                position += len(received)
                self.bytes_received += len(received)
                if position > self._blob.size:
                    raise Damaged(f"{answer.where}: more than the {self._blob.size} bytes that the manifest says")
                file.write(piece)
                running.update(piece)
                self._bar.at(running.position)
        file.flush()
        if running.position < self._blob.size:
            raise Unreachable(f"{answer.where}: the answer ended after {running.position} of {self._blob.size} bytes")

    def _wrong(self) -> str:
        return f"{self._repository.name}: the registry's bytes for {self._blob.digest} have another digest; not kept"
