"""The one translation of the engine's exceptions into ours."""

from __future__ import annotations

import native.errors
from native.errors import EngineError
from wire import errors

_TRANSLATION: dict[type[EngineError], type[errors.SpeedyError]] = {
    native.errors.ChunkNotFound: errors.ChunkNotFound,
    native.errors.VolumeNotFound: errors.VolumeNotFound,
    native.errors.ChunkExists: errors.ChunkConflict,
    native.errors.ChunkCorrupt: errors.ChunkUnreadable,
    native.errors.ChecksumMismatch: errors.ChecksumMismatch,
    native.errors.RangeInvalid: errors.RangeNotSatisfiable,
    native.errors.DiskFull: errors.StorageFull,
    native.errors.StoreBusy: errors.Overloaded,
    native.errors.StoreFailed: errors.Unavailable,
    native.errors.StoreLocked: errors.Conflict,
    native.errors.StoreMismatch: errors.Conflict,
}


def translated(exc: EngineError, fid: int = 0) -> errors.SpeedyError:
    """What `exc` means to callers; what is not in the table is a store that was closed."""
    kind = _TRANSLATION.get(type(exc), errors.Unavailable)
    if kind is errors.StorageFull:
        return kind(f"{exc}; the setting is chunkserver.reserve_bytes")
    return kind(str(exc), fid=fid) if fid else kind(str(exc))
