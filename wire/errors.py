"""One error tree for every room.

    SpeedyError
    ├── BadRequest 400
    │   ├── ChecksumMismatch      the bytes that came are not the bytes the sender summed
    │   ├── TruncatedBody         fewer bytes came than were announced
    │   ├── BodyTimeout 408       the sender fell silent in the middle (wire.http: between rooms a DeadlineExceeded)
    │   └── DigestMismatch        content does not have the digest it was pushed under
    ├── Unauthorized 401          no or wrong cluster key
    ├── NotFound 404
    │   ├── ChunkNotFound · VolumeNotFound · OperationNotFound · FileNotFound · GroupNotFound
    │   └── RepositoryUnknown · BlobUnknown · ManifestUnknown · UploadUnknown
    ├── Conflict 409
    │   ├── ChunkConflict         other bytes are stored under this fid
    │   ├── FileExists
    │   ├── UploadConflict        the upload's offset is not the expected one (carries the real one)
    │   ├── ChunkDead             the chunk was given up, and may be deleted already: nothing may name it
    │   ├── ReferencesMissing     a manifest names content that the repository does not have (carries it)
    │   ├── SizesDiffer           a manifest tells other sizes of blobs than they have (carries it)
    │   └── ConditionFailed 412   what the caller made the change depend on is not so
    ├── PayloadTooLarge 413
    ├── RangeNotSatisfiable 416
    ├── Overloaded 503            try again; carries retry_after_s
    ├── Unavailable 503           a room, disk or database this one needs does not answer
    │   ├── NoGroupAvailable      no group of ChunkServers can take the write
    │   ├── ChunkUnreadable       no good copy of a chunk could be read just now
    │   │   └── ChunkDamaged      every copy was looked at, and none is good
    │   └── DeadlineExceeded
    ├── StorageFull 507
    └── InternalError 500         a defect of ours; the message stays in the log

Each class has a `code` (what travels in JSON) and a `status`; `details` are plain JSON values that the class's
constructor can be called with again, so that an error raised behind HTTP arrives as the same exception with the
same attributes (see wire.http). `retryable` tells a client whether the same call may succeed a little later.
"""

from __future__ import annotations

from typing import Any, ClassVar


class SpeedyError(Exception):
    """Root of all errors that may cross between rooms. `message` is for people, `details` for programs."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    #: set by wire.http: the request never got through to the other side, so nothing can have come of it
    unsent: bool = False

    def __init__(self, message: str = "", **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = details


class InternalError(SpeedyError):
    pass


class BadRequest(SpeedyError):
    code = "bad_request"
    status = 400


class ChecksumMismatch(BadRequest):
    code = "checksum_mismatch"


class TruncatedBody(BadRequest):
    code = "truncated_body"


class BodyTimeout(BadRequest):
    code = "body_timeout"
    status = 408


class DigestMismatch(BadRequest):
    code = "digest_mismatch"


class Unauthorized(SpeedyError):
    code = "unauthorized"
    status = 401


class NotFound(SpeedyError):
    code = "not_found"
    status = 404


class ChunkNotFound(NotFound):
    code = "chunk_not_found"


class VolumeNotFound(NotFound):
    code = "volume_not_found"


class OperationNotFound(NotFound):
    code = "operation_not_found"


class FileNotFound(NotFound):
    code = "file_not_found"


class GroupNotFound(NotFound):
    code = "group_not_found"


class RepositoryUnknown(NotFound):
    code = "repository_unknown"


class BlobUnknown(NotFound):
    code = "blob_unknown"


class ManifestUnknown(NotFound):
    code = "manifest_unknown"


class UploadUnknown(NotFound):
    code = "upload_unknown"


class Conflict(SpeedyError):
    code = "conflict"
    status = 409


class ChunkConflict(Conflict):
    code = "chunk_conflict"


class FileExists(Conflict):
    code = "file_exists"


class UploadConflict(Conflict):
    """details: offset (bytes that are durable in the upload)."""

    code = "upload_conflict"

    @property
    def offset(self) -> int:
        return int(self.details["offset"])


class ChunkDead(Conflict):
    code = "chunk_dead"


class ReferencesMissing(Conflict):
    """details: digests (list of str) that a manifest names and its repository does not hold."""

    code = "references_missing"

    @property
    def digests(self) -> list[str]:
        return [str(d) for d in self.details.get("digests", [])]


class ConditionFailed(Conflict):
    code = "condition_failed"
    status = 412


class SizesDiffer(Conflict):
    """details: digest, told and actual (bytes) of the first blob of which a manifest tells a wrong size."""

    code = "sizes_differ"


class PayloadTooLarge(SpeedyError):
    code = "payload_too_large"
    status = 413


class RangeNotSatisfiable(SpeedyError):
    code = "range_not_satisfiable"
    status = 416


class Overloaded(SpeedyError):
    """details: retry_after_s (seconds until trying again makes sense)."""

    code = "overloaded"
    status = 503
    retryable = True

    @property
    def retry_after_s(self) -> int:
        return int(self.details.get("retry_after_s", 1))


class Unavailable(SpeedyError):
    code = "unavailable"
    status = 503
    retryable = True


class NoGroupAvailable(Unavailable):
    code = "no_group_available"


class ChunkUnreadable(Unavailable):
    code = "chunk_unreadable"


class ChunkDamaged(ChunkUnreadable):
    code = "chunk_damaged"


class DeadlineExceeded(Unavailable):
    code = "deadline_exceeded"


class StorageFull(SpeedyError):
    code = "storage_full"
    status = 507


def _tree(root: type[SpeedyError]) -> dict[str, type[SpeedyError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found.update(_tree(child))
    return found


#: code -> class, for the client's side of the translation
ERRORS_BY_CODE: dict[str, type[SpeedyError]] = _tree(SpeedyError) | {"internal": InternalError}
