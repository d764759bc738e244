"""What goes wrong in the storage engine.

EngineError
├── ChunkNotFound     no such fid
├── VolumeNotFound    no such volume
├── ChunkExists       the fid holds other bytes
├── ChunkCorrupt      this copy cannot be read or fails its checksum
├── ChecksumMismatch  the payload given to put does not match its crc32c
├── DiskFull          no space above the reserve
├── StoreFailed       fail-stop after an I/O error; the call is not acknowledged
├── StoreBusy         too many bytes wait; try again later
├── StoreLocked       another process has the directory open
├── StoreMismatch     other cluster, newer format, or not a store
└── RangeInvalid      beyond the end of a chunk, or longer than a chunk may be
"""

from pathlib import Path


class EngineError(Exception):
    """Base of all engine errors, and itself: a closed engine, an argument that is never valid, no memory."""


class ChunkNotFound(EngineError):
    """There is no chunk with this fid."""

    def __init__(self, fid: int) -> None:
        super().__init__(f"no chunk {fid}")
        self.fid = fid


class VolumeNotFound(EngineError):
    """There is no volume with this id that can be read."""

    def __init__(self, volume: int) -> None:
        super().__init__(f"no volume {volume}")
        self.volume = volume


class ChunkExists(EngineError):
    """The fid is taken by other bytes."""

    def __init__(self, fid: int) -> None:
        super().__init__(f"chunk {fid} exists with other bytes")
        self.fid = fid


class ChunkCorrupt(EngineError):
    """The stored copy cannot be read or fails its checksum; another replica may be good."""

    def __init__(self, fid: int, detail: str) -> None:
        super().__init__(f"chunk {fid} is corrupt: {detail}")
        self.fid = fid
        self.detail = detail


class ChecksumMismatch(EngineError):
    """The payload given to put does not have the CRC32C that came with it."""

    def __init__(self, expected: int, actual: int) -> None:
        super().__init__(f"payload has CRC32C {actual:08x}, announced was {expected:08x}")
        self.expected = expected
        self.actual = actual


class DiskFull(EngineError):
    """No space above the reserve. Reads and deletes still work."""


class StoreFailed(EngineError):
    """Fail-stop after an I/O error. The call is not acknowledged; whether its bytes are there is unknown."""


class StoreBusy(EngineError):
    """More bytes wait to be written than options.queue_bytes_max; try again later."""


class StoreLocked(EngineError):
    """Another process has the directory open."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is in use by another process")
        self.path = path


class StoreMismatch(EngineError):
    """The directory is not this store: other cluster, newer format, or no store where one was expected."""


class RangeInvalid(EngineError):
    """A range beyond the end of the chunk, or a chunk longer than CHUNK_BYTES_MAX."""
