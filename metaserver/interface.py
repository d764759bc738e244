"""Contracts of the MetaServer: files made of fragments (FileStore) and the registry's catalogue (Catalogue).

Both are satisfied by metaserver.core (SQLAlchemy: SQLite or PostgreSQL; one transaction per method, opened and closed
there) and metaserver.client (HTTP); both pass tests/contracts/test_file_store.py and
test_catalogue_*.py.

A file is an ordered list of fragments without gaps; fragment i covers bytes [offset, offset + length) and names the
chunk (fid, group, CRC-32C) that holds them. A file is open (has no path, can be appended to, seen by nobody but its
writer) or committed (has a path, never changes). File ids are never reused, so a committed file's fragments may be
cached for ever. Uploads are open files with a row that carries the digest state; blobs and manifests are committed
files whose paths are `blobs/<algorithm>/<hex>` and `manifests/<algorithm>/<hex>`.

Names, tags and paths sort by their UTF-8 bytes on every database. Lists answer at most `limit` (1..LIST_MAX) entries
after `after`. Times are seconds since the epoch by the database's clock. Digest strings are "<algorithm>:<hex>".

What every method may raise: BadRequest for values that are out of range or of another form; Unavailable,
DeadlineExceeded or Overloaded when the database does not answer, holds a lock or has no connection for longer than a
bounded wait; StorageFull when its disk is. Those that record fragments raise ChunkDead for a chunk that was given up,
and Conflict for one that another file has. A call may be repeated until it is answered: what it removes is then gone,
also when its first request was carried out and not answered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

#: entries of one list, and fragments that one call may bring: 40 GiB in chunks of 4 MiB
LIST_MAX = 10_000
FRAGMENTS_MAX = 10_000

#: digests that a manifest may refer to, and tags that one call may point at it
REFERENCES_MAX = 10_000
TAGS_MAX = 100


@dataclass(frozen=True, slots=True)
class Fragment:
    """A contiguous piece of a file, stored as one chunk. `offset` and `length` in bytes."""

    offset: int
    length: int
    fid: int
    group_id: int
    crc32c: int


@dataclass(frozen=True, slots=True)
class FileInfo:
    file_id: int
    path: str
    size: int
    created_s: float


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload session. `offset` bytes are durable; `digest_state` (native.digest.Digest.export_state) covers exactly
    those."""

    upload_id: str
    repository: str
    file_id: int
    offset: int
    fragments: int
    digest_state: bytes
    started_s: float


@dataclass(frozen=True, slots=True)
class Blob:
    """`damaged`: a reader found that no good copy of some of its bytes is left (see mark_damaged)."""

    digest: str
    size: int
    file_id: int
    damaged: bool = False


@dataclass(frozen=True, slots=True)
class Manifest:
    """A stored manifest as a repository sees it. Its bytes are the file `file_id`."""

    digest: str
    media_type: str
    size: int
    file_id: int
    subject: str | None
    artifact_type: str | None
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ManifestPage:
    """A slice of a list in digest order; `more` tells whether manifests follow the last one."""

    manifests: tuple[Manifest, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class NewManifest:
    """A manifest to be put. `fragments` hold its bytes (stored already). `blobs` and `manifests` are the digests that
    must be in the repository; `optional` are references that need not be (foreign layers) but count as references when
    they are. A digest in `manifests` is satisfied by a manifest or, for a build cache's index, by a blob of the
    repository. `sizes` are those that the manifest tells of its `blobs`; what is not in there is not checked."""

    digest: str
    media_type: str
    size: int
    fragments: tuple[Fragment, ...]
    subject: str | None
    artifact_type: str | None
    annotations: Mapping[str, str]
    blobs: tuple[str, ...]
    manifests: tuple[str, ...]
    optional: tuple[str, ...]
    sizes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Condition:
    """What a change depends on: that `reference` (tag or digest) leads to one of `digests` (None: to anything), or,
    with `expected` False, that it does not."""

    reference: str
    digests: tuple[str, ...] | None
    expected: bool

    def is_met(self, found: str | None) -> bool:
        """`found` is the digest that the reference leads to, None where it leads nowhere."""
        return (found is not None and (self.digests is None or found in self.digests)) == self.expected


@dataclass(frozen=True, slots=True)
class Page:
    """A slice of a sorted list; `more` tells whether entries follow the last one."""

    names: tuple[str, ...]
    more: bool


class FileStore(Protocol):
    def create_file(self) -> int:
        """Open a new empty file; its file id."""
        ...

    def append_fragments(self, file_id: int, expected_size: int, fragments: Sequence[Fragment]) -> int:
        """Append to an open file whose size is `expected_size`; the new size.

        A replay (the same fragments are there already at that place) succeeds and changes nothing. Raises FileNotFound,
        UploadConflict (the size is another one; details: offset), BadRequest (fragments leave gaps or overlap),
        Conflict (the file is an upload session's).
        """
        ...

    def commit_file(self, file_id: int, path: str) -> FileInfo:
        """Give an open file its path. Harmless to repeat. Raises FileNotFound, FileExists (another file has this path,
        or this one another path), Conflict (the file is an upload session's)."""
        ...

    def stat(self, path: str) -> FileInfo:
        """Raises FileNotFound."""
        ...

    def fragments(self, file_id: int) -> tuple[Fragment, ...]:
        """All fragments in order (of an open or a committed file). Raises FileNotFound."""
        ...

    def list_files(self, prefix: str, after: str = "", limit: int = 1000) -> list[FileInfo]:
        """Committed files below the directory `prefix` ("" is the root): `a/b` lists `a/b` itself and `a/b/...`, never
        `a/bc`."""
        ...

    def move(self, source: str, destination: str) -> None:
        """Rename, metadata only. Raises FileNotFound, FileExists, Conflict (a blob's or manifest's file). Moving a path
        onto itself does nothing."""
        ...

    def delete_file(self, path: str) -> bool:
        """Remove a committed file; its chunks become dead. True if it was there. Raises Conflict (a blob's or
        manifest's file)."""
        ...

    def abandon_file(self, file_id: int) -> bool:
        """Remove an open file; its chunks become dead. True if it was there. Raises Conflict (an upload session's)."""
        ...

    def give_up_fragments(self, fragments: Sequence[Fragment]) -> None:
        """The chunks of these fragments were stored for nothing: they become dead, save those that a file has. So it
        may follow a request of which nobody knows whether it recorded them."""
        ...

    def dead_fragments(self, min_age_s: float, limit: int = 1000) -> list[Fragment]:
        """Fragments that belong to no file any more since at least `min_age_s`, oldest first: their chunks may be
        deleted."""
        ...

    def forget_dead_fragments(self, fids: Sequence[int]) -> None:
        """The chunks of these dead fragments are gone from every replica."""
        ...


class Catalogue(Protocol):
    """Repositories come into being with their first blob or manifest. RepositoryUnknown where a repository has
    neither."""

    # -- uploads ------------------------------------------------------------------------------------------------------
    def create_upload(self, repository: str, upload_id: str, digest_state: bytes) -> Upload:
        """Open an upload session with an empty open file. Harmless to repeat. Raises Conflict (another repository has a
        session of this id)."""
        ...

    def upload(self, repository: str, upload_id: str) -> Upload:
        """Raises UploadUnknown (also when it belongs to another repository)."""
        ...

    def advance_upload(
        self, repository: str, upload_id: str, expected_offset: int, fragments: Sequence[Fragment], digest_state: bytes
    ) -> Upload:
        """Append fragments and replace the digest state in one transaction, if the offset is `expected_offset`.

        A replay of the last advance succeeds. Raises UploadUnknown, UploadConflict (details: offset), BadRequest
        (gaps).
        """
        ...

    def finish_upload(
        self, repository: str, upload_id: str, expected_offset: int, fragments: Sequence[Fragment], digest: str
    ) -> Blob:
        """Append the last fragments (may be none), make the file the blob `digest` of `repository`, end the session:
        one transaction.

        The caller has verified the digest. When the blob exists already (any repository), this file takes the place of
        the existing one, whose chunks become dead: the new bytes were verified just now, the old ones may have gone
        bad since. A replay (session gone, the repository has the blob) answers the blob; fragments that no file has
        become dead then. Raises UploadUnknown, UploadConflict.
        """
        ...

    def cancel_upload(self, repository: str, upload_id: str) -> None:
        """End the session; its chunks become dead. Raises UploadUnknown."""
        ...

    def expire_upload(self, idle_s: float) -> str | None:
        """End one session to which nothing was added for at least `idle_s`, the longest idle first; its id, or None
        when there is none. Its chunks become dead. Callers at the same time end different ones."""
        ...

    # -- blobs --------------------------------------------------------------------------------------------------------
    def put_blob(self, repository: str, digest: str, fragments: Sequence[Fragment]) -> Blob:
        """A blob in one step (monolithic push, already verified): a file with these fragments; as finish_upload
        otherwise. A replay keeps what there is: chunks that are known already never take anything's place."""
        ...

    def blob(self, repository: str, digest: str) -> Blob:
        """Raises BlobUnknown (also for an unknown repository)."""
        ...

    def mount_blob(self, repository: str, digest: str, source: str | None) -> Blob:
        """Give `repository` a blob that `source` has (any repository when None). Raises BlobUnknown, for a damaged blob
        too: who is refused pushes it, which heals it."""
        ...

    def mark_damaged(self, digest: str, file_id: int) -> None:
        """No good copy of some chunk of the blob's file `file_id` is left. It may still be read where it is good. Does
        nothing when the blob has another file by now, or is gone; pushing the blob takes the mark away."""
        ...

    def delete_blob(self, repository: str, digest: str) -> None:
        """Take the blob from this repository; with the last repository the file goes. Raises BlobUnknown."""
        ...

    # -- manifests and tags -------------------------------------------------------------------------------------------
    def put_manifest(
        self, repository: str, manifest: NewManifest, tags: Sequence[str], conditions: Sequence[Condition] = ()
    ) -> Manifest:
        """Store the manifest and point `tags` at it, all or nothing. Harmless to repeat. As with blobs, new bytes take
        the place of those that were stored before. `conditions` are looked at in the same transaction; one whose
        reference leads to this manifest already counts as met, so that a repetition finds what the first one did.

        Raises ReferencesMissing (details: digests), SizesDiffer (details: digest, told, actual) and ConditionFailed,
        and then the given fragments' chunks become dead too.
        """
        ...

    def manifest(self, repository: str, reference: str) -> Manifest:
        """By tag or digest (contains ":"). Raises ManifestUnknown (also for an unknown repository)."""
        ...

    def delete_manifest(self, repository: str, digest: str) -> None:
        """Remove the manifest and every tag that points at it. Raises ManifestUnknown."""
        ...

    def delete_tag(self, repository: str, tag: str, conditions: Sequence[Condition] = ()) -> None:
        """Remove the tag only, and only if it leads where `conditions`, all about this tag, want it to. Raises
        ManifestUnknown, ConditionFailed."""
        ...

    def tags(self, repository: str, after: str = "", limit: int = 1000) -> Page:
        """Raises RepositoryUnknown."""
        ...

    def repositories(self, after: str = "", limit: int = 1000) -> Page: ...

    def referrers(
        self, repository: str, subject: str, artifact_type: str | None = None, after: str = ""
    ) -> ManifestPage:
        """Manifests of the repository whose subject is this digest, in digest order after the digest `after`. Empty
        when unknown.

        At most LIST_MAX entries, and no further one that would take the page's annotations above 4 MiB: anybody who may
        push decides how many there are and how large.
        """
        ...


class MetaStore(FileStore, Catalogue, Protocol):
    """What a MetaServer offers as a whole."""

    def check(self) -> None:
        """Return if the database answers and its schema is the program's; else raise Unavailable with the reason."""
        ...
