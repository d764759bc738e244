"""Manifests and tags: the manifests of metaserver.interface.Catalogue over SQL."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, literal, select, union_all
from sqlalchemy.dialects import postgresql, sqlite

from metaserver import fragment_rows, repository_rows
from metaserver import models as m
from metaserver.checks import NAME_BYTES_MAX, check_digest, check_fragments, check_name
from metaserver.content import MANIFESTS, Stored
from metaserver.fragment_rows import IN_MAX
from metaserver.interface import (
    LIST_MAX,
    REFERENCES_MAX,
    TAGS_MAX,
    Condition,
    Manifest,
    ManifestPage,
    NewManifest,
)
from metaserver.transactions import Transactions
from wire.errors import BadRequest, ConditionFailed, ManifestUnknown, ReferencesMissing, SizesDiffer, SpeedyError

ANNOTATIONS_BYTES_MAX = 4 << 20
CONDITIONS_MAX = 10

_links = m.repository_manifests
_SELECT = select(
    _links.c.digest,
    _links.c.media_type,
    m.manifests.c.size,
    m.manifests.c.file_id,
    _links.c.subject,
    _links.c.artifact_type,
    _links.c.annotations,
)
_JOINED = _SELECT.join_from(_links, m.manifests, m.manifests.c.digest == _links.c.digest)
_BY_DIGEST = _JOINED.where(_links.c.repository == bindparam("of_repository"), _links.c.digest == bindparam("of_digest"))
_BY_TAG = (
    _SELECT.select_from(m.tags)
    .join(_links, (_links.c.repository == m.tags.c.repository) & (_links.c.digest == m.tags.c.digest))
    .join(m.manifests, m.manifests.c.digest == _links.c.digest)
    .where(m.tags.c.repository == bindparam("of_repository"), m.tags.c.tag == bindparam("of_tag"))
)
_REFERRING = (
    _links.c.repository == bindparam("of_repository"),
    _links.c.subject == bindparam("of_subject"),
    _links.c.digest > bindparam("after"),
)
# Looked for among the manifests that refer to one digest, which an index finds: no index of its own, which every push
# would pay for.
_OF_TYPE = _links.c.artifact_type == bindparam("of_type")
_REFERRER_SIZES = (
    select(_links.c.digest, func.length(_links.c.annotations))
    .where(*_REFERRING)
    .order_by(_links.c.digest)
    .limit(LIST_MAX + 1)
)
_REFERRERS = _JOINED.where(*_REFERRING, _links.c.digest <= bindparam("last")).order_by(_links.c.digest).limit(LIST_MAX)
_PRESENT = union_all(
    select(literal("blob").label("kind"), m.repository_blobs.c.digest, m.blobs.c.size)
    .join_from(m.repository_blobs, m.blobs, m.blobs.c.digest == m.repository_blobs.c.digest)
    .where(m.repository_blobs.c.repository == bindparam("of_repository"))
    .where(m.repository_blobs.c.digest.in_(bindparam("blobs", expanding=True))),
    select(literal("manifest"), _links.c.digest, literal(0))
    .where(_links.c.repository == bindparam("of_repository"))
    .where(_links.c.digest.in_(bindparam("manifests", expanding=True))),
)
# The same bytes name the same references, whoever brings them.
_INSERT_REFERENCES = {
    "postgresql": postgresql.insert(m.manifest_references).on_conflict_do_nothing(),
    "sqlite": sqlite.insert(m.manifest_references).on_conflict_do_nothing(),
}
_DELETE_REFERENCES = delete(m.manifest_references).where(m.manifest_references.c.manifest == bindparam("of_digest"))
_LINKED = select(_links.c.digest).where(
    _links.c.repository == bindparam("of_repository"), _links.c.digest == bindparam("of_digest")
)
# Locked: who deletes a tag locks nothing else.
_TAGGED = (
    select(m.tags.c.digest)
    .where(m.tags.c.repository == bindparam("of_repository"), m.tags.c.tag == bindparam("of_tag"))
    .with_for_update()
)
_DELETE_LINK = delete(_links).where(
    _links.c.repository == bindparam("of_repository"), _links.c.digest == bindparam("of_digest")
)
_DELETE_TAGS = delete(m.tags).where(
    m.tags.c.repository == bindparam("of_repository"), m.tags.c.digest == bindparam("of_digest")
)
_DELETE_TAG = delete(m.tags).where(
    m.tags.c.repository == bindparam("of_repository"), m.tags.c.tag == bindparam("of_tag")
)


def _replacing(dialect: Any, table: Any, keys: Sequence[str], columns: Sequence[str]) -> Any:
    statement = dialect.insert(table)
    changed = {column: statement.excluded[column] for column in columns}
    return statement.on_conflict_do_update(index_elements=list(keys), set_=changed)


_LINK_COLUMNS = ("media_type", "subject", "artifact_type", "annotations")
_PUT_LINK = {
    name: _replacing(dialect, _links, ("repository", "digest"), _LINK_COLUMNS)
    for name, dialect in (("postgresql", postgresql), ("sqlite", sqlite))
}
_PUT_TAG = {
    name: _replacing(dialect, m.tags, ("repository", "tag"), ("digest",))
    for name, dialect in (("postgresql", postgresql), ("sqlite", sqlite))
}


class Manifests(Transactions):
    def put_manifest(
        self, repository: str, manifest: NewManifest, tags: Sequence[str], conditions: Sequence[Condition] = ()
    ) -> Manifest:
        _check_manifest(repository, manifest, tags)
        _check_conditions(conditions)

        def put(connection: Connection) -> Manifest | SpeedyError | Condition:
            # A repository that is not there has nothing, and a refused manifest must not make it. What one that is made
            # just now has is not looked at: without its lock, it could be gone again before the commit. With conditions
            # nobody else may push meanwhile: what a reference does not lead to has no row to lock.
            take = repository_rows.lock if conditions else repository_rows.share
            there = take(connection, repository)
            present = _present(connection, repository, manifest) if there else _Present({}, frozenset())
            wrong = _wrong_references(repository, manifest, present)
            if wrong is not None:
                fragment_rows.kill(connection, manifest.fragments)
                return wrong
            unmet = _unmet(connection, repository, manifest.digest, conditions)
            if unmet is None and not there:
                repository_rows.keep(connection, repository)
                if conditions:
                    repository_rows.lock(connection, repository)
                    unmet = _unmet(connection, repository, manifest.digest, conditions)
            if unmet is not None:
                fragment_rows.kill(connection, manifest.fragments)
                return unmet
            stored = MANIFESTS.put_fragments(connection, manifest.digest, manifest.fragments, manifest.size)
            _put_references(connection, manifest)
            _put_link(connection, repository, manifest)
            _put_tags(connection, repository, manifest.digest, tags)
            return _as_manifest(manifest, stored)

        result = self._write(put)
        if isinstance(result, Manifest):
            return result
        # Only now: that the chunks are dead had to be committed.
        if isinstance(result, Condition):
            raise _condition_failed(repository, result)
        raise result

    def manifest(self, repository: str, reference: str) -> Manifest:
        check_name("the repository", repository)
        check_name("the reference", reference)
        by_digest = ":" in reference
        statement = _BY_DIGEST if by_digest else _BY_TAG
        parameters = {"of_repository": repository, "of_digest" if by_digest else "of_tag": reference}
        row = self._read(lambda connection: connection.execute(statement, parameters).one_or_none())
        if row is None:
            raise ManifestUnknown(f"{repository} has no manifest {reference}")
        return _from_row(row)

    def delete_manifest(self, repository: str, digest: str) -> None:
        check_name("the repository", repository)
        check_digest(digest)

        def delete_link(connection: Connection) -> None:
            parameters = {"of_repository": repository, "of_digest": digest}
            there = repository_rows.lock(connection, repository)
            if there:
                connection.execute(_DELETE_TAGS, parameters)
            if not there or connection.execute(_DELETE_LINK, parameters).rowcount == 0:
                raise ManifestUnknown(f"{repository} has no manifest {digest}")
            stored = MANIFESTS.unlinked(connection, digest)
            if stored is not None:
                connection.execute(_DELETE_REFERENCES, parameters)
                MANIFESTS.remove(connection, digest, stored)
            repository_rows.drop_if_empty(connection, repository)

        self._write(delete_link)

    def delete_tag(self, repository: str, tag: str, conditions: Sequence[Condition] = ()) -> None:
        check_name("the repository", repository)
        check_name("the tag", tag)
        _check_conditions(conditions)
        parameters = {"of_repository": repository, "of_tag": tag}

        def delete_row(connection: Connection) -> None:
            # Locked, so that what the conditions were held against is what goes.
            found = connection.scalar(_TAGGED, parameters)
            if found is None:
                raise ManifestUnknown(f"{repository} has no tag {tag}")
            for condition in conditions:
                if not condition.is_met(found):
                    raise _condition_failed(repository, condition)
            connection.execute(_DELETE_TAG, parameters)

        self._write(delete_row)

    def referrers(
        self, repository: str, subject: str, artifact_type: str | None = None, after: str = ""
    ) -> ManifestPage:
        check_name("the repository", repository)
        check_digest(subject)
        check_name("after", after, empty=True)
        sizes, referrers = _REFERRER_SIZES, _REFERRERS
        parameters = {"of_repository": repository, "of_subject": subject, "after": after}
        if artifact_type is not None:
            check_name("the artifact type", artifact_type, empty=True)
            sizes, referrers = sizes.where(_OF_TYPE), referrers.where(_OF_TYPE)
            parameters["of_type"] = artifact_type

        def list_referrers(connection: Connection) -> ManifestPage:
            # Sizes first: the annotations of all of them may not fit into memory.
            found = [(digest, size) for digest, size in connection.execute(sizes, parameters)]
            count = _fitting([size for _, size in found[:LIST_MAX]])
            if count == 0:
                return ManifestPage((), more=False)
            rows = connection.execute(referrers, {**parameters, "last": found[count - 1][0]})
            return ManifestPage(tuple(_from_row(row) for row in rows), more=len(found) > count)

        return self._read(list_referrers)


def _condition_failed(repository: str, condition: Condition) -> ConditionFailed:
    return ConditionFailed(f"{condition.reference} of {repository} is not what the request makes it depend on")


def _unmet(connection: Connection, repository: str, digest: str, conditions: Sequence[Condition]) -> Condition | None:
    """The first of the conditions that is not met, nor by `digest` having been put already."""
    for condition in conditions:
        by_digest = ":" in condition.reference
        parameters = {"of_repository": repository, "of_digest" if by_digest else "of_tag": condition.reference}
        found: str | None = connection.execute(_LINKED if by_digest else _TAGGED, parameters).scalar()
        if found != digest and not condition.is_met(found):
            return condition
    return None


@dataclass(frozen=True, slots=True)
class _Present:
    """What a repository has of a manifest's references; blobs with their sizes."""

    blobs: Mapping[str, int]
    manifests: Set[str]


def _present(connection: Connection, repository: str, manifest: NewManifest) -> _Present:
    blobs: dict[str, int] = {}
    manifests: set[str] = set()
    children = set(manifest.manifests)
    for some in _slices(_required(manifest)):
        parameters = {
            "of_repository": repository,
            "blobs": some,  # children too: the index of a build cache has layers as children
            "manifests": [digest for digest in some if digest in children],
        }
        for kind, digest, size in connection.execute(_PRESENT, parameters):
            if kind == "blob":
                blobs[digest] = size
            else:
                manifests.add(digest)
    return _Present(blobs, manifests)


def _wrong_references(repository: str, manifest: NewManifest, present: _Present) -> SpeedyError | None:
    """What is wrong with the manifest's references, in its order; None when nothing is."""
    needed_blobs, children = set(manifest.blobs), set(manifest.manifests)
    missing = [
        digest
        for digest in _required(manifest)
        if digest not in present.blobs
        and (digest in needed_blobs or (digest in children and digest not in present.manifests))
    ]
    if missing:
        return ReferencesMissing(f"{repository} does not have {', '.join(missing[:10])}", digests=missing)
    for digest in manifest.blobs:
        actual, told = present.blobs[digest], manifest.sizes.get(digest)
        if told is not None and told != actual:
            message = f"{digest} has {actual} bytes, the manifest says {told}"
            return SizesDiffer(message, digest=digest, told=told, actual=actual)
    return None


def _fitting(sizes: Sequence[int]) -> int:
    """How many of them make a page; one at least."""
    total = 0
    for count, size in enumerate(sizes):
        total += size
        if count and total > ANNOTATIONS_BYTES_MAX:
            return count
    return len(sizes)


def _required(manifest: NewManifest) -> list[str]:
    return list(dict.fromkeys(manifest.blobs + manifest.manifests))


def _put_references(connection: Connection, manifest: NewManifest) -> None:
    # The strictest kind wins when a digest is named twice.
    kinds = dict.fromkeys(manifest.optional, "optional")
    kinds |= dict.fromkeys(manifest.manifests, "manifest")
    kinds |= dict.fromkeys(manifest.blobs, "blob")
    rows = [{"manifest": manifest.digest, "digest": digest, "kind": kind} for digest, kind in sorted(kinds.items())]
    if rows:
        connection.execute(_INSERT_REFERENCES[connection.dialect.name], rows)


def _put_link(connection: Connection, repository: str, manifest: NewManifest) -> None:
    values = {
        "repository": repository,
        "digest": manifest.digest,
        "media_type": manifest.media_type,
        "subject": manifest.subject,
        "artifact_type": manifest.artifact_type,
        "annotations": json.dumps(dict(manifest.annotations), sort_keys=True),
    }
    connection.execute(_PUT_LINK[connection.dialect.name], values)


def _put_tags(connection: Connection, repository: str, digest: str, tags: Sequence[str]) -> None:
    # Sorted: two requests that move the same tags take their rows' locks in one order.
    rows = [{"repository": repository, "tag": tag, "digest": digest} for tag in sorted(set(tags))]
    if rows:
        connection.execute(_PUT_TAG[connection.dialect.name], rows)


def _as_manifest(new: NewManifest, stored: Stored) -> Manifest:
    return Manifest(
        digest=new.digest,
        media_type=new.media_type,
        size=stored.size,
        file_id=stored.file_id,
        subject=new.subject,
        artifact_type=new.artifact_type,
        annotations=dict(new.annotations),
    )


def _from_row(row: m.SqlRow) -> Manifest:
    return Manifest(
        digest=row.digest,
        media_type=row.media_type,
        size=row.size,
        file_id=row.file_id,
        subject=row.subject,
        artifact_type=row.artifact_type,
        annotations=json.loads(row.annotations),
    )


def _check_conditions(conditions: Sequence[Condition]) -> None:
    if len(conditions) > CONDITIONS_MAX:
        raise BadRequest(f"{len(conditions)} conditions; at most {CONDITIONS_MAX} are allowed")
    for condition in conditions:
        check_name("the reference", condition.reference)


def _check_manifest(repository: str, manifest: NewManifest, tags: Sequence[str]) -> None:
    check_name("the repository", repository)
    check_digest(manifest.digest)
    check_name("the media type", manifest.media_type)
    if manifest.subject is not None:
        check_digest(manifest.subject)
    if manifest.artifact_type is not None:
        check_name("the artifact type", manifest.artifact_type, empty=True)
    references = (*manifest.blobs, *manifest.manifests, *manifest.optional)
    if len(references) > REFERENCES_MAX:
        raise BadRequest(f"{len(references)} references; at most {REFERENCES_MAX} are allowed")
    for digest in references:
        check_digest(digest)
    if len(tags) > TAGS_MAX:
        raise BadRequest(f"{len(tags)} tags; at most {TAGS_MAX} are allowed")
    for tag in tags:
        check_name("the tag", tag, bytes_max=NAME_BYTES_MAX)
        if ":" in tag:
            raise BadRequest(f"{tag!r} is no tag: a reference with ':' is a digest")
    if sum(len(key) + len(value) for key, value in manifest.annotations.items()) > ANNOTATIONS_BYTES_MAX:
        raise BadRequest(f"the annotations have more than {ANNOTATIONS_BYTES_MAX} characters")
    size = check_fragments(manifest.fragments, 0)
    if size != manifest.size:
        raise BadRequest(f"the manifest has {manifest.size} bytes, its fragments have {size}")


def _slices(items: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), IN_MAX):
        yield items[start : start + IN_MAX]
