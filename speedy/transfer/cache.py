"""What the next run has to know: upload sessions that are open, and which repositories have which blobs.

    DIR/uploads/<hash of registry, repository, digest>.json    {"location", "digest", ...} of one session
    DIR/uploads/<the same>.lock                                held by the run that uses the session
    DIR/known/<hash of the registry>/<digest>                  repositories, one per line, the latest last
    DIR/images/<hash of image and form>.json                   the manifest that was made of an image of docker
    DIR/layers/                                                compressed layers of archives that are being pushed
    DIR/pulls/                                                 images on their way into the local docker

All of it is disposable. A session's address lets whoever knows it write to that upload: the directory is its owner's.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from speedy.transfer.documents import Document, parse_document
from speedy.transfer.errors import TransferError

_REPOSITORIES_MAX: Final = 8
_KNOWN_MAX: Final = 20_000
#: registries forget sessions after about a week
_FORGET_AFTER_S: Final = 14 * 86400.0


def default_directory(environment: Mapping[str, str]) -> Path:
    base = environment.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path(environment.get("HOME", "/")) / ".cache") / "speedy"


class SavedSession:
    """The record of one upload session. `is_kept` False: another run uses it, and this one leaves no trace."""

    def __init__(self, path: Path, is_kept: bool) -> None:
        self._path = path
        self.is_kept = is_kept

    def location(self) -> str | None:
        """Where the session was when it was last saved."""
        if not self.is_kept:
            return None
        try:
            location = json.loads(self._path.read_text())["location"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return location if isinstance(location, str) and location else None

    def save(self, location: str, **says: str) -> None:
        if self.is_kept:
            _write(self._path, json.dumps({"location": location, **says}))

    def clear(self) -> None:
        if self.is_kept:
            self._path.unlink(missing_ok=True)


class Cache:
    """Thread-safe, and safe for several processes on one directory. Raises TransferError where it cannot be written."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._uploads = self._make("uploads")
        self._known = self._make("known")
        self._images = self._make("images")
        self.layers = self._make("layers")
        self.pulls = self._make("pulls")
        self._forget_old()

    @contextmanager
    def session(self, registry: str, repository: str, digest: str) -> Iterator[SavedSession]:
        """The saved session of this upload, this run's alone while the block lasts."""
        path = self._uploads / f"{_hash(registry, repository, digest)}.json"
        lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_kept = True
            except BlockingIOError:
                is_kept = False
            yield SavedSession(path, is_kept)
            # Whoever opened it meanwhile has given up already; should two runs still meet, the registry refuses one.
            if is_kept and not path.exists():
                path.with_suffix(".lock").unlink(missing_ok=True)
        finally:
            os.close(lock)

    def repositories(self, registry: str, digest: str) -> list[str]:
        """Repositories of the registry that had the blob when this cache last saw it, the latest first."""
        try:
            lines = (self._known / _hash(registry) / digest.replace(":", "-")).read_text().splitlines()
        except (OSError, UnicodeDecodeError):
            return []
        return lines[::-1]

    def remember(self, registry: str, repository: str, digest: str) -> None:
        others = [name for name in self.repositories(registry, digest)[::-1] if name != repository]
        directory = self._known / _hash(registry)
        directory.mkdir(exist_ok=True, mode=0o700)
        names = [*others, repository][-_REPOSITORIES_MAX:]
        _write(directory / digest.replace(":", "-"), "".join(f"{name}\n" for name in names))

    def made(self, *image: str) -> Document | None:
        """The manifest that a push made of the image, if it is on record."""
        try:
            digest, _, content = self._image_path(image).read_bytes().partition(b"\n")
            return parse_document(content, expected_digest=digest.decode())
        except (OSError, UnicodeDecodeError, TransferError):
            return None

    def remember_made(self, document: Document, *image: str) -> None:
        _write(self._image_path(image), f"{document.descriptor.digest}\n{document.content.decode()}")

    def pull_directory(self, reference: str) -> Path:
        """Where an image on its way into the local docker is put together."""
        return self.pulls / _hash(reference)

    def _image_path(self, image: tuple[str, ...]) -> Path:
        return self._images / f"{_hash(*image)}.json"

    def _make(self, name: str) -> Path:
        path = self.directory / name
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise TransferError(
                f"{path} cannot be made ({error.strerror}): choose a directory for what the next run has to know by "
                "--state-dir"
            ) from error
        return path

    def _forget_old(self) -> None:
        """Bounds what piles up: old sessions, and the oldest of what is known."""
        before_s = time.time() - _FORGET_AFTER_S
        for directory in (self._uploads, self._images, self.layers, self.pulls):
            for changed_s, path in _by_age(directory):
                if changed_s < before_s:
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        for directory in self._known.iterdir():
            files = _by_age(directory)
            for _, path in files[: max(0, len(files) - _KNOWN_MAX)]:
                path.unlink(missing_ok=True)


def _by_age(directory: Path) -> list[tuple[float, Path]]:
    """Files with their times of change, the oldest first."""
    found = []
    for path in directory.iterdir():
        try:
            found.append((path.stat().st_mtime, path))
        except FileNotFoundError:
            continue
    return sorted(found)


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:40]


def _write(path: Path, text: str) -> None:
    """Whole or not at all. Not synced: after a power cut a session is merely not found again."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    temporary.rename(path)
