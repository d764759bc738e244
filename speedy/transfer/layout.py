"""An OCI layout directory (OCI image specification, image-layout.md), read and written.

    DIR/oci-layout                     the version of the form
    DIR/index.json                     what the layout holds, with tags: written last, over a temporary file
    DIR/blobs/sha256/<hex>             whole blobs only: a blob comes here by a rename, when its digest was checked
    DIR/.partial/sha256-<hex>          a blob on its way, held by the run that fetches it

Several runs may write to one layout: index.json changes under a lock on the directory, each partial file has one of its
own. Data first, name last: what index.json names is there and synced.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from speedy.transfer.content import Content
from speedy.transfer.documents import DOCUMENT_BYTES_MAX, Descriptor, Document, parse_descriptor, parse_document
from speedy.transfer.errors import Damaged, TransferError
from speedy.transfer.patience import Stop

REF_NAME: Final = "org.opencontainers.image.ref.name"
_VERSION: Final = {"imageLayoutVersion": "1.0.0"}
_INDEX_BYTES_MAX: Final = 64 << 20
_LOCK_EVERY_S: Final = 0.1
#: how long another run may hold the lock on index.json, seconds
_LOCK_TIMEOUT_S: Final = 30.0
#: how long another run may take with a blob that this one wants too, seconds
_PARTIAL_TIMEOUT_S: Final = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Named:
    """An entry of index.json; `tag` "" where it has none."""

    tag: str
    descriptor: Descriptor


@dataclass(frozen=True, slots=True)
class Partial:
    """A blob on its way: an open file, and where it is."""

    file: BinaryIO
    path: Path

    @property
    def size(self) -> int:
        return os.fstat(self.file.fileno()).st_size


class Layout:
    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(cls, path: Path) -> Layout:
        """Raises TransferError where there is none."""
        if not (path / "index.json").is_file():
            raise TransferError(f"{path} is not an OCI layout: it has no index.json")
        return cls(path)

    @classmethod
    def create(cls, path: Path) -> Layout:
        """Made where there is none. Raises TransferError for a directory that holds something else."""
        try:
            if path.is_dir() and any(path.iterdir()) and not _looks_like_ours(path):
                raise TransferError(f"{path} is neither empty nor an OCI layout; nothing was changed")
            (path / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
            layout = cls(path)
            if not (path / "oci-layout").exists():
                layout._write("oci-layout", _json(_VERSION))
            with layout._locked(Stop()):
                if not (path / "index.json").exists():
                    layout._write("index.json", _json({"schemaVersion": 2, "manifests": []}))
        except OSError as error:
            raise TransferError(f"{path} cannot be written: {error.strerror}") from error
        return layout

    def names(self) -> list[Named]:
        found = []
        for entry in self._index()["manifests"]:
            try:
                found.append(Named(tag_of(entry), parse_descriptor(entry)))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise Damaged(f"{self.path}/index.json has a malformed entry: {error}") from error
        return found

    def blob_path(self, digest: str) -> Path:
        algorithm, _, hexadecimal = digest.partition(":")
        return self.path / "blobs" / algorithm / hexadecimal

    def content(self, blob: Descriptor) -> Content:
        """Raises TransferError where the layout does not have it, Damaged where it has another size."""
        path = self.blob_path(blob.digest)
        try:
            content = Content.of_file(path)
        except FileNotFoundError as error:
            raise TransferError(f"{self.path} does not have {blob.digest}, which its manifest names") from error
        if content.size != blob.size:
            raise Damaged(f"{path} has {content.size} bytes instead of {blob.size}")
        return content

    def document(self, descriptor: Descriptor) -> Document:
        content = self.content(descriptor).read(DOCUMENT_BYTES_MAX)
        return parse_document(content, descriptor.media_type, descriptor.digest)

    def put(self, digest: str, content: bytes, stop: Stop) -> None:
        """A small blob, whole; `digest` has been checked."""
        path = self.blob_path(digest)
        if path.is_file() and path.read_bytes() == content:
            return
        with self.partial(digest, stop) as partial:
            partial.file.truncate(0)
            partial.file.write(content)
            self.keep(partial, digest)

    @contextmanager
    def partial(self, digest: str, stop: Stop) -> Iterator[Partial]:
        """The blob's file on its way, this run's alone while the block lasts; another run's is waited for
        (bounded, then TransferError).

        The caller appends to it and calls `keep`; otherwise it stays for the next run.
        """
        path = self.path / ".partial" / digest.replace(":", "-")
        file = self._open_partial(path, stop)
        try:
            yield Partial(file, path)
        finally:
            file.close()
            with contextlib.suppress(OSError):
                path.parent.rmdir()  # when this was the last one

    def keep(self, partial: Partial, digest: str) -> None:
        """Gives a partial file, whole and checked, its place among the blobs: synced, then renamed, then synced."""
        target = self.blob_path(digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.file.flush()
        os.fsync(partial.file.fileno())
        partial.path.rename(target)
        _sync_directory(target.parent)

    def add(self, descriptor: Descriptor, tag: str, stop: Stop) -> None:
        """Names it in index.json. A tag moves from what it named before; other entries stay as they are."""
        entry: dict[str, Any] = descriptor.as_json()
        if descriptor.platform is not None:
            entry["platform"] = {"os": descriptor.platform.os, "architecture": descriptor.platform.architecture}
            if descriptor.platform.variant:
                entry["platform"]["variant"] = descriptor.platform.variant
        if tag:
            entry["annotations"] = {REF_NAME: tag}
        with self._locked(stop):
            index = self._index()
            index["manifests"] = [
                other
                for other in index["manifests"]
                if not (tag_of(other) == tag and (tag or other.get("digest") == descriptor.digest))
            ] + [entry]
            self._write("index.json", _json(index))

    def _index(self) -> dict[str, Any]:
        try:
            index = json.loads(Content.of_file(self.path / "index.json").read(_INDEX_BYTES_MAX))
        except (OSError, ValueError, RecursionError) as error:
            raise Damaged(f"{self.path}/index.json cannot be read: {error}") from error
        if not isinstance(index, dict) or not isinstance(index.setdefault("manifests", []), list):
            raise Damaged(f"{self.path}/index.json is not an index")
        return index

    def _open_partial(self, path: Path, stop: Stop) -> BinaryIO:
        deadline_s = time.monotonic() + _PARTIAL_TIMEOUT_S
        while time.monotonic() < deadline_s:
            with contextlib.suppress(FileExistsError):  # with exist_ok it looks again, and may find none
                path.parent.mkdir()
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except FileNotFoundError:
                continue  # the directory went, being empty, between the two lines
            file = os.fdopen(descriptor, "r+b")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Meanwhile the other run may have renamed it: then this is a finished blob that must not change.
                if _is_at(file, path):
                    return file
                file.close()
            except BlockingIOError:
                file.close()
                stop.sleep(_LOCK_EVERY_S)
            except BaseException:
                file.close()
                raise
            stop.check()
        raise TransferError(f"{path} is in use by another run for more than {_PARTIAL_TIMEOUT_S:g} s")

    @contextmanager
    def _locked(self, stop: Stop) -> Iterator[None]:
        directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for _ in range(int(_LOCK_TIMEOUT_S / _LOCK_EVERY_S)):
                try:
                    fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    stop.sleep(_LOCK_EVERY_S)
            else:
                raise TransferError(f"{self.path} is locked by another program for more than {_LOCK_TIMEOUT_S:g} s")
            yield
        finally:
            os.close(directory)

    def _write(self, name: str, content: bytes) -> None:
        temporary = self.path / f".{name}.{os.getpid()}.tmp"
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self.path / name)
        _sync_directory(self.path)


def _looks_like_ours(path: Path) -> bool:
    return (path / "oci-layout").exists() or (path / "index.json").exists() or (path / "blobs").is_dir()


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def tag_of(entry: Any) -> str:
    """The tag of an entry of index.json, "" for none."""
    annotations = entry.get("annotations") if isinstance(entry, dict) else None
    return str(annotations.get(REF_NAME, "")) if isinstance(annotations, dict) else ""


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _json(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
