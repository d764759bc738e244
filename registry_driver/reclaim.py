"""Takes back the space of what nobody needs any more: ends uploads that were abandoned, deletes dead fragments' chunks,
then forgets their rows.

In this order: a crash in between leaves rows whose chunks are gone, and deleting those again is harmless. So is
running on several registries at once. Fragments whose group does not answer stay for a later round.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from random import Random

from metaserver.interface import LIST_MAX, MetaStore
from registry_driver.driver import StorageDriver
from wire.errors import SpeedyError

log = logging.getLogger("speedy.reclaim")

#: time between two rounds: what is dead long enough soon goes, and an idle registry hardly asks
INTERVAL_MIN_S = 1.0
INTERVAL_MAX_S = 30.0

#: uploads ended in one round
EXPIRED_MAX = 1000


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """What one round did: chunks deleted and forgotten, chunks that could not be deleted everywhere, bytes of the
    former."""

    deleted: int
    left: int
    bytes_deleted: int


class Reclaimer:
    """`run_once` ends uploads to which nothing was added for `upload_expires_s` (None: it leaves them alone) and works
    through what is dead for `min_age_s`; `start` repeats it every `interval_s` in a thread.

    Unless an interval is given it is the shorter of the two ages, within INTERVAL_MIN_S and INTERVAL_MAX_S: who wants
    space back after a second does not want to wait half a minute for the next round.
    """

    def __init__(
        self,
        meta: MetaStore,
        driver: StorageDriver,
        *,
        min_age_s: float,
        upload_expires_s: float | None = None,
        interval_s: float | None = None,
        batch_max: int = 500,
        batches_max: int = 200,
    ) -> None:
        self._meta = meta
        self._driver = driver
        self._min_age_s = min_age_s
        self._upload_expires_s = upload_expires_s
        age_s = min(min_age_s, upload_expires_s or min_age_s)
        self._interval_s = interval_s or min(max(age_s, INTERVAL_MIN_S), INTERVAL_MAX_S)
        self._batch_max = min(batch_max, LIST_MAX)
        self._batches_max = batches_max
        self._random = Random()  # noqa: S311 - spreads load, keeps no secret
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def run_once(self) -> Reclaimed:
        """One round of at most `batches_max` batches. Raises what the MetaStore or the driver raises."""
        self._expire_uploads()
        deleted = bytes_deleted = 0
        stuck: set[int] = set()
        for _ in range(self._batches_max):
            # Those that could not be deleted are the oldest and come first every time: look past them.
            limit = min(self._batch_max + len(stuck), LIST_MAX)
            dead = self._meta.dead_fragments(self._min_age_s, limit)
            batch = [fragment for fragment in dead if fragment.fid not in stuck][: self._batch_max]
            if not batch or self._stop.is_set():
                break
            left = {fragment.fid for fragment in self._driver.delete_fragments(batch)}
            gone = [fragment for fragment in batch if fragment.fid not in left]
            if gone:
                self._meta.forget_dead_fragments([fragment.fid for fragment in gone])
            stuck |= left
            deleted += len(gone)
            bytes_deleted += sum(fragment.length for fragment in gone)
            if len(dead) < limit and not left:
                break
        if deleted or stuck:
            log.info("reclaimed %d chunks of %d bytes, %d stay for later", deleted, bytes_deleted, len(stuck))
        return Reclaimed(deleted, len(stuck), bytes_deleted)

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="reclaimer", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop after the batch that is being worked on."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=30.0)

    def _expire_uploads(self) -> None:
        if self._upload_expires_s is None:
            return
        for _ in range(EXPIRED_MAX):
            upload_id = None if self._stop.is_set() else self._meta.expire_upload(self._upload_expires_s)
            if upload_id is None:
                return
            log.info("upload %s was abandoned: ended after %g s", upload_id, self._upload_expires_s)

    def _run(self) -> None:
        # Jittered, so that registries started together do not all work on the same batch.
        while not self._stop.wait(self._interval_s * self._random.uniform(0.75, 1.25)):
            try:
                self.run_once()
            except SpeedyError as error:
                log.warning("reclaiming stopped for this round: %s", error)
            except Exception:
                log.exception("reclaiming failed unexpectedly")  # the next round may go better; the thread must live
