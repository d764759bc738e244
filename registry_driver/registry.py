"""What a registry does, without HTTP: uploads that any front end continues, blobs, manifests and tags, over a MetaStore
and a StorageDriver.

Data first, name last: bytes are stored and verified before the one transaction that names them, so that a crash leaves
garbage for the collector and never a name without data. Names and digests that come in here have been checked for form
(registry_driver.names).

Chunks that no row names are deleted at once only where it is certain that none does. After a metadata call whose
outcome is unknown (it may have been committed before the answer was lost) they stay for the sweeper: deleting them
could take the bytes from under a name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from metaserver.interface import Blob, Condition, Fragment, Manifest, ManifestPage, MetaStore, NewManifest, Page, Upload
from native.digest import Digest
from registry_driver.caches import WeighedCache
from registry_driver.driver import ByteSource, StorageDriver, WriteProgress
from registry_driver.manifest_document import ManifestDocument, parse_manifest
from registry_driver.names import DigestInvalid, algorithm_of, is_digest
from registry_driver.recording import LOST_RACE, BytesSource, Collected, LateSession, SessionRecorder, give_up
from registry_driver.stored_files import ByteStream, StoredFiles
from wire.errors import (
    BadRequest,
    BlobUnknown,
    ChunkDamaged,
    ChunkNotFound,
    ChunkUnreadable,
    ConditionFailed,
    DigestMismatch,
    FileNotFound,
    InternalError,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    SpeedyError,
    UploadConflict,
    UploadUnknown,
)

MIB: Final = 1 << 20

#: what reading a file says when its content was pushed again, and the old chunks are on their way out
GONE: Final = (FileNotFound, ChunkNotFound, ChunkUnreadable)

#: how often a file may be replaced while it is read; each time takes at least the age that dead chunks must reach
REPLACED_MAX: Final = 10

_log = logging.getLogger("speedy.registry")


class UploadInvalid(BadRequest):
    code = "upload_invalid"


@dataclass(frozen=True, slots=True)
class RegistryLimits:
    manifest_bytes_max: int = 4 * MIB
    #: memory for the bytes of manifests that were read or pushed last
    manifest_cache_bytes: int = 16 * MIB
    #: fragments of files read last, some 120 bytes each
    fragment_cache_max: int = 200_000
    #: fragments of one upload; 1 TiB in chunks of 4 MiB
    upload_fragments_max: int = 262_144
    #: an upload whose algorithm is told only when it is closed is read again up to this size
    rehash_bytes_max: int = 256 * MIB


class Registry:
    """All methods are thread-safe and raise SpeedyErrors. `writable` returns if bytes can be stored just now, and is
    asked before an upload begins."""

    def __init__(
        self, meta: MetaStore, driver: StorageDriver, writable: Callable[[], None], limits: RegistryLimits | None = None
    ) -> None:
        self._meta = meta
        self._driver = driver
        self._writable = writable
        self.limits = limits or RegistryLimits()
        self._files = StoredFiles(meta, driver, self.limits.fragment_cache_max)
        # By digest, not by file: whatever happens to the rows, what is found under a digest has it.
        self._manifest_bytes: WeighedCache[str, bytes] = WeighedCache(
            self.limits.manifest_cache_bytes, lambda body: len(body) + 128
        )

    # -- uploads ------------------------------------------------------------------------------------------------------
    def open_upload(self, repository: str, algorithm: str) -> Upload:
        """Begin an upload session whose digest will be of `algorithm`. Raises what `writable` raises (StorageFull,
        Unavailable)."""
        self._writable()
        return self._meta.create_upload(repository, str(uuid4()), Digest(algorithm).export_state())

    def upload(self, repository: str, upload_id: str) -> Upload:
        """Raises UploadUnknown."""
        return self._meta.upload(repository, upload_id)

    def append(self, repository: str, upload_id: str, source: ByteSource, start: int | None) -> int:
        """Store what `source` gives at the end of the upload; its size then. Everything is durable and recorded when
        this returns.

        `start` is where the sender believes the upload ends. When the source fails, its durable prefix is recorded
        before the error is raised. Raises UploadUnknown, UploadConflict (`start` is wrong, or another request advanced
        the upload meanwhile; details: offset).
        """
        upload = self._upload_at(repository, upload_id, start)
        recorder = SessionRecorder(self._meta, upload)
        last = self._driver.write_stream(source, offset=upload.offset, digest=self._digest_of(upload), record=recorder)
        if last.fragments:
            recorder(last)
        return last.offset

    def finish_upload(
        self, repository: str, upload_id: str, digest: str, source: ByteSource | None, start: int | None
    ) -> Blob:
        """Close the upload as the blob `digest`, after the last bytes from `source`, if any. Reads no stored bytes (but
        see rehash_bytes_max).

        Raises as append does, and DigestMismatch. That ends the session: nobody can say which of its bytes are wrong,
        so that there is nothing to resume, and clients begin anew. Errors of form, and all others, leave it as it is.
        """
        try:
            upload = self._upload_at(repository, upload_id, start)
        except UploadUnknown:
            # The answer to the first closing request was lost: the same question gets the same answer.
            if source is not None:
                raise
            return self._blob_instead_of_upload(repository, upload_id, digest)
        state = self._digest_for(upload, algorithm_of(digest))
        recorder = SessionRecorder(self._meta, upload)
        last = WriteProgress(fragments=(), offset=upload.offset, digest_state=b"")
        if source is not None:
            last = self._driver.write_stream(source, offset=upload.offset, digest=state, record=recorder)
        if _told(state) != digest:
            self._cancel_quietly(repository, upload_id)
            self._discard(last.fragments)
            raise _mismatch(digest, state)
        return self._finish(repository, upload_id, recorder.offset, last.fragments, digest)

    def cancel_upload(self, repository: str, upload_id: str) -> None:
        """Raises UploadUnknown."""
        self._meta.cancel_upload(repository, upload_id)

    def push_blob(self, repository: str, digest: str, source: ByteSource) -> Blob:
        """Store a blob in one request. Raises DigestMismatch and what the source raises; no name is made then."""
        self._writable()
        state = Digest(algorithm_of(digest))
        session = LateSession(self._meta, repository, Digest(state.algorithm).export_state())
        verified = False
        try:
            last = self._driver.write_stream(source, offset=0, digest=state, record=session)
            verified = _told(state) == digest
        finally:
            if not verified and session.upload_id is not None:
                self._cancel_quietly(repository, session.upload_id)
        if not verified:
            self._discard(last.fragments)
            raise _mismatch(digest, state)
        if session.upload_id is None:
            return self._meta.put_blob(repository, digest, last.fragments)
        return self._finish(repository, session.upload_id, session.offset, last.fragments, digest)

    # -- blobs --------------------------------------------------------------------------------------------------------
    def mount(self, repository: str, digest: str, source: str | None) -> Blob | None:
        """The blob, which `repository` has from now on, if `source` (any repository when None) holds it; else None."""
        try:
            return self._meta.mount_blob(repository, digest, source)
        except NotFound:
            return None

    def blob(self, repository: str, digest: str) -> Blob:
        """A blob to read. Raises BlobUnknown."""
        return self._meta.blob(repository, digest)

    def whole_blob(self, repository: str, digest: str) -> Blob:
        """A blob that need not be pushed. Raises BlobUnknown, also for one that was found damaged: who is told so
        pushes it again, which heals it in every repository."""
        blob = self._meta.blob(repository, digest)
        if blob.damaged:
            raise BlobUnknown("the blob is damaged and has to be pushed again", digest=digest)
        return blob

    def read_blob(self, repository: str, blob: Blob, offset: int, length: int) -> ByteStream:
        """Bytes [offset, offset + length) of the blob. Raises BlobUnknown (deleted just now) and what the driver
        raises."""
        return ByteStream(self._blob_bytes(repository, blob, offset, offset + length))

    def delete_blob(self, repository: str, digest: str, conditions: Sequence[Condition] = ()) -> None:
        """Raises BlobUnknown, ConditionFailed."""
        if not _holds(conditions, digest):
            raise _not_as_wanted(self._meta.blob(repository, digest).digest)
        self._meta.delete_blob(repository, digest)

    # -- manifests and tags -------------------------------------------------------------------------------------------
    def put_manifest(
        self,
        repository: str,
        body: bytes,
        content_type: str,
        *,
        digest: str | None,
        tags: Sequence[str],
        conditions: Sequence[Condition] = (),
    ) -> tuple[Manifest, ManifestDocument]:
        """Store a manifest under its digest (sha256 unless `digest` is of another algorithm) and point `tags` at it, if
        `conditions` are met.

        Raises PayloadTooLarge, ManifestInvalid, DigestMismatch (the content does not have `digest`), ReferencesMissing,
        SizesDiffer, ConditionFailed.
        """
        if len(body) > self.limits.manifest_bytes_max:
            raise PayloadTooLarge(f"a manifest may have {self.limits.manifest_bytes_max} bytes")
        document = parse_manifest(body, content_type)
        state = Digest("sha256" if digest is None else algorithm_of(digest))
        state.update(body)
        if digest is not None and _told(state) != digest:
            raise _mismatch(digest, state)
        manifest = self._meta.put_manifest(
            repository,
            NewManifest(
                digest=_told(state),
                media_type=document.media_type,
                size=len(body),
                fragments=self._store(body),
                subject=document.subject,
                artifact_type=document.artifact_type,
                # Only the list of referrers shows annotations; others stay in the bytes, which may be megabytes of
                # them.
                annotations=document.annotations if document.subject is not None else {},
                blobs=document.blobs,
                manifests=document.manifests,
                optional=document.optional,
                sizes=document.sizes,
            ),
            tags,
            conditions,
        )
        self._manifest_bytes.put(manifest.digest, body)
        return manifest, document

    def manifest(self, repository: str, reference: str) -> Manifest:
        """By tag or digest. Raises ManifestUnknown."""
        return self._meta.manifest(repository, reference)

    def read_manifest(self, repository: str, manifest: Manifest) -> bytes:
        """The manifest's bytes as they were pushed, hashed again when they come from the store. Raises ManifestUnknown
        (deleted just now)."""
        body = self._manifest_bytes.get(manifest.digest)
        if body is not None:
            return body
        for _ in range(REPLACED_MAX):
            try:
                body = self._files.read_all(manifest.file_id, manifest.size)
                break
            except GONE:
                again = self._meta.manifest(repository, manifest.digest)
                if again.file_id == manifest.file_id:
                    raise
                manifest = again
        else:
            raise Overloaded("the manifest is pushed again and again", retry_after_s=1)
        state = Digest(algorithm_of(manifest.digest))
        state.update(body)
        if _told(state) != manifest.digest:
            raise InternalError(f"file {manifest.file_id} is stored as {manifest.digest} and has {_told(state)}")
        self._manifest_bytes.put(manifest.digest, body)
        return body

    def delete_reference(self, repository: str, reference: str, conditions: Sequence[Condition] = ()) -> None:
        """Delete a tag, or by digest a manifest with all its tags, if `conditions` are met. Raises ManifestUnknown,
        ConditionFailed."""
        if not is_digest(reference):
            self._meta.delete_tag(repository, reference, conditions)
        elif _holds(conditions, reference):
            self._meta.delete_manifest(repository, reference)
        else:
            raise _not_as_wanted(self._meta.manifest(repository, reference).digest)

    def tags(self, repository: str, after: str, limit: int) -> Page:
        """Raises RepositoryUnknown."""
        return self._meta.tags(repository, after, limit)

    def repositories(self, after: str, limit: int) -> Page:
        return self._meta.repositories(after, limit)

    def referrers(self, repository: str, subject: str, artifact_type: str | None, after: str) -> ManifestPage:
        return self._meta.referrers(repository, subject, artifact_type, after)

    # -- parts of the above -------------------------------------------------------------------------------------------
    def _blob_bytes(self, repository: str, blob: Blob, offset: int, end: int) -> Generator[memoryview, None, None]:
        """The blob's bytes; when it is pushed again meanwhile, the rest comes from its new file."""
        for _ in range(REPLACED_MAX):
            try:
                with closing(self._files.read(blob.file_id, blob.size, offset, end - offset)) as stream:
                    for view in stream:
                        offset += len(view)
                        yield view
                return
            except GONE as exc:
                again = self._meta.blob(repository, blob.digest)
                if again.file_id == blob.file_id:
                    if isinstance(exc, ChunkDamaged | ChunkNotFound):
                        self._mark_damaged(blob)
                    raise
                blob = again
        raise Overloaded("the blob is pushed again and again", retry_after_s=1)

    def _mark_damaged(self, blob: Blob) -> None:
        _log.error("a blob is damaged until it is pushed again", extra={"digest": blob.digest, "file_id": blob.file_id})
        try:
            self._meta.mark_damaged(blob.digest, blob.file_id)
        except SpeedyError as exc:
            _log.warning("a damaged blob could not be marked", extra={"digest": blob.digest, "error": str(exc)})

    def _upload_at(self, repository: str, upload_id: str, start: int | None) -> Upload:
        upload = self._meta.upload(repository, upload_id)
        if start is not None and start != upload.offset:
            raise UploadConflict(
                f"the upload has {upload.offset} bytes, the request begins at {start}", offset=upload.offset
            )
        if upload.fragments >= self.limits.upload_fragments_max:
            raise UploadInvalid(f"the upload is made of {upload.fragments} pieces already; send larger ones")
        return upload

    def _finish(self, repository: str, upload_id: str, offset: int, fragments: Sequence[Fragment], digest: str) -> Blob:
        try:
            return self._meta.finish_upload(repository, upload_id, offset, fragments, digest)
        except LOST_RACE:
            give_up(self._meta, fragments)
            raise

    def _blob_instead_of_upload(self, repository: str, upload_id: str, digest: str) -> Blob:
        try:
            return self._meta.blob(repository, digest)
        except NotFound:
            raise UploadUnknown("there is no such upload", upload_id=upload_id) from None

    def _digest_of(self, upload: Upload) -> Digest:
        try:
            state = Digest.import_state(upload.digest_state)
        except ValueError as exc:
            raise InternalError(f"the digest state of upload {upload.upload_id} is damaged: {exc}") from exc
        if state.length != upload.offset:
            raise InternalError(f"upload {upload.upload_id} has {upload.offset} bytes and a digest of {state.length}")
        return state

    def _digest_for(self, upload: Upload, algorithm: str) -> Digest:
        """The upload's digest so far in `algorithm`, from its state alone unless the session was opened for another
        one."""
        if upload.offset == 0:
            return Digest(algorithm)
        state = self._digest_of(upload)
        if state.algorithm == algorithm:
            return state
        if upload.offset > self.limits.rehash_bytes_max:
            raise DigestInvalid(
                f"the upload was opened for {state.algorithm} and is too large to be hashed again: "
                f"open it with ?digest-algorithm={algorithm}"
            )
        state = Digest(algorithm)
        with closing(self._driver.read_stream(self._meta.fragments(upload.file_id), 0, upload.offset)) as stored:
            for view in stored:
                state.update(view)
        return state

    def _store(self, body: bytes) -> tuple[Fragment, ...]:
        """Store a small file's bytes; its fragments."""
        collected = Collected()
        try:
            last = self._driver.write_stream(BytesSource(body), offset=0, digest=Digest("sha256"), record=collected)
        except SpeedyError:
            self._discard(collected.fragments)
            raise
        return (*collected.fragments, *last.fragments)

    def _cancel_quietly(self, repository: str, upload_id: str) -> None:
        try:
            self._meta.cancel_upload(repository, upload_id)
        except SpeedyError as exc:
            _log.warning("an upload that failed could not be ended", extra={"upload_id": upload_id, "error": str(exc)})

    def _discard(self, fragments: Sequence[Fragment]) -> None:
        """Delete chunks that no row names and none will. What cannot be deleted now is the sweeper's."""
        if not fragments:
            return
        try:
            self._driver.delete_fragments(fragments)
        except SpeedyError as exc:
            _log.warning(
                "chunks of a failed push could not be deleted", extra={"chunks": len(fragments), "error": str(exc)}
            )


def _holds(conditions: Sequence[Condition], digest: str) -> bool:
    """Whether all are met by what is found under its digest: where it is there, it is the same for ever."""
    return all(condition.is_met(digest) for condition in conditions)


def _not_as_wanted(digest: str) -> ConditionFailed:
    return ConditionFailed(f"{digest} is not what the request makes it depend on")


def _told(digest: Digest) -> str:
    return f"{digest.algorithm}:{digest.hexdigest()}"


def _mismatch(digest: str, state: Digest) -> DigestMismatch:
    return DigestMismatch("the content does not have this digest", digest=digest, computed=_told(state))
