"""What travels between HttpMetaStore and the MetaServer's app, as dataclasses that wire.values checks.

Fragments travel as rows [offset, length, fid, group_id, crc32c] (a 10 GiB layer has 2,560 of them), annotations as
pairs [name, value]. Digests and names stand in the body or the query, never in the path: names hold slashes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from metaserver.interface import Condition, Fragment, Manifest, ManifestPage, NewManifest

FragmentRows = tuple[tuple[int, int, int, int, int], ...]
Pairs = tuple[tuple[str, str], ...]


def to_rows(fragments: Iterable[Fragment]) -> list[list[int]]:
    return [[f.offset, f.length, f.fid, f.group_id, f.crc32c] for f in fragments]


def from_rows(rows: Iterable[Sequence[int]]) -> tuple[Fragment, ...]:
    return tuple(Fragment(*row) for row in rows)


@dataclass(frozen=True, slots=True)
class AppendFragments:
    file_id: int
    expected_size: int
    fragments: FragmentRows


@dataclass(frozen=True, slots=True)
class CommitFile:
    file_id: int
    path: str


@dataclass(frozen=True, slots=True)
class AbandonFile:
    file_id: int


@dataclass(frozen=True, slots=True)
class MoveFile:
    source: str
    destination: str


@dataclass(frozen=True, slots=True)
class DeleteFile:
    path: str


@dataclass(frozen=True, slots=True)
class GiveUpFragments:
    fragments: FragmentRows


@dataclass(frozen=True, slots=True)
class ForgetFragments:
    fids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CreateUpload:
    repository: str
    upload_id: str
    digest_state: bytes


@dataclass(frozen=True, slots=True)
class AdvanceUpload:
    repository: str
    upload_id: str
    expected_offset: int
    fragments: FragmentRows
    digest_state: bytes


@dataclass(frozen=True, slots=True)
class FinishUpload:
    repository: str
    upload_id: str
    expected_offset: int
    fragments: FragmentRows
    digest: str


@dataclass(frozen=True, slots=True)
class CancelUpload:
    repository: str
    upload_id: str


@dataclass(frozen=True, slots=True)
class ExpireUpload:
    idle_s: float


@dataclass(frozen=True, slots=True)
class PutBlob:
    repository: str
    digest: str
    fragments: FragmentRows


@dataclass(frozen=True, slots=True)
class MountBlob:
    repository: str
    digest: str
    source: str | None


@dataclass(frozen=True, slots=True)
class MarkDamaged:
    digest: str
    file_id: int


@dataclass(frozen=True, slots=True)
class DeleteContent:
    """A blob or a manifest."""

    repository: str
    digest: str


@dataclass(frozen=True, slots=True)
class DeleteTag:
    repository: str
    tag: str
    conditions: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class PutManifest:
    """NewManifest, where to and under which tags."""

    repository: str
    tags: tuple[str, ...]
    digest: str
    media_type: str
    size: int
    fragments: FragmentRows
    subject: str | None
    artifact_type: str | None
    annotations: Pairs
    blobs: tuple[str, ...]
    manifests: tuple[str, ...]
    optional: tuple[str, ...]
    sizes: tuple[tuple[str, int], ...]
    conditions: tuple[Condition, ...] = ()

    def manifest(self) -> NewManifest:
        return NewManifest(
            digest=self.digest,
            media_type=self.media_type,
            size=self.size,
            fragments=from_rows(self.fragments),
            subject=self.subject,
            artifact_type=self.artifact_type,
            annotations=dict(self.annotations),
            blobs=self.blobs,
            manifests=self.manifests,
            optional=self.optional,
            sizes=dict(self.sizes),
        )

    @classmethod
    def of(
        cls, repository: str, manifest: NewManifest, tags: Sequence[str], conditions: Sequence[Condition]
    ) -> PutManifest:
        return cls(
            repository=repository,
            tags=tuple(tags),
            digest=manifest.digest,
            media_type=manifest.media_type,
            size=manifest.size,
            fragments=tuple((f.offset, f.length, f.fid, f.group_id, f.crc32c) for f in manifest.fragments),
            subject=manifest.subject,
            artifact_type=manifest.artifact_type,
            annotations=tuple(manifest.annotations.items()),
            blobs=tuple(manifest.blobs),
            manifests=tuple(manifest.manifests),
            optional=tuple(manifest.optional),
            sizes=tuple(manifest.sizes.items()),
            conditions=tuple(conditions),
        )


@dataclass(frozen=True, slots=True)
class ManifestAnswer:
    digest: str
    media_type: str
    size: int
    file_id: int
    subject: str | None
    artifact_type: str | None
    annotations: Pairs

    def manifest(self) -> Manifest:
        return Manifest(
            digest=self.digest,
            media_type=self.media_type,
            size=self.size,
            file_id=self.file_id,
            subject=self.subject,
            artifact_type=self.artifact_type,
            annotations=dict(self.annotations),
        )

    @classmethod
    def of(cls, manifest: Manifest) -> ManifestAnswer:
        return cls(
            digest=manifest.digest,
            media_type=manifest.media_type,
            size=manifest.size,
            file_id=manifest.file_id,
            subject=manifest.subject,
            artifact_type=manifest.artifact_type,
            annotations=tuple(manifest.annotations.items()),
        )


@dataclass(frozen=True, slots=True)
class ManifestPageAnswer:
    manifests: tuple[ManifestAnswer, ...]
    more: bool

    def page(self) -> ManifestPage:
        return ManifestPage(tuple(item.manifest() for item in self.manifests), self.more)

    @classmethod
    def of(cls, page: ManifestPage) -> ManifestPageAnswer:
        return cls(tuple(map(ManifestAnswer.of, page.manifests)), page.more)
