"""The MetaServer's tables, on SQLite and PostgreSQL alike. metaserver/migrations makes them; a test holds both
together.

    files ──< fragments                      a file and its pieces; a file without a path is open
    dead_fragments                           pieces of no file any more, until their chunks are deleted
    uploads ── files                         an upload session and its open file
    repositories ──< repository_blobs >── blobs ── files
    repositories ──< repository_manifests >── manifests ── files
    repository_manifests ──< tags            manifests ──< manifest_references

There are no counters: nothing is written that every request would have to write. A repository's row exists as long as
it has a blob or a manifest, a blob's (manifest's) row as long as a repository has it. That is kept by locks on these
rows in one order, repository before blob or manifest: whoever adds holds FOR KEY SHARE, whoever takes away FOR UPDATE.
fids are unsigned 64-bit numbers in principle; SQL integers are signed, so fids are below 2**63 here.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

from wire.database import byte_sorted_text

#: a row of a result; SQLAlchemy 2.0 and 2.1 write its type in different ways
SqlRow: TypeAlias = Any

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    }
)

#: grows by itself; on SQLite only a plain INTEGER does
Identifier = BigInteger().with_variant(Integer, "sqlite")
Name = byte_sorted_text()

files = Table(
    "files",
    metadata,
    Column("file_id", Identifier, primary_key=True, autoincrement=True),
    Column("path", Name, unique=True),
    Column("size", BigInteger, nullable=False),
    Column("fragments", Integer, nullable=False),
    Column("created_s", Double, nullable=False),
    sqlite_autoincrement=True,  # ids of deleted files are not given again: fragments are cached by file id
)

# The first byte's offset is a fragment's place: two fragments cannot begin at the same byte.
fragments = Table(
    "fragments",
    metadata,
    Column("file_id", BigInteger, ForeignKey(files.c.file_id), primary_key=True),
    Column("offset", BigInteger, primary_key=True),
    Column("length", BigInteger, nullable=False),
    Column("fid", BigInteger, nullable=False, unique=True),  # else deleting one file would take another's bytes
    Column("group_id", Integer, nullable=False),
    Column("crc32c", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

dead_fragments = Table(
    "dead_fragments",
    metadata,
    Column("fid", BigInteger, primary_key=True, autoincrement=False),
    Column("offset", BigInteger, nullable=False),
    Column("length", BigInteger, nullable=False),
    Column("group_id", Integer, nullable=False),
    Column("crc32c", BigInteger, nullable=False),
    Column("dead_s", Double, nullable=False),
    Index("ix_dead_fragments_dead_s_fid", "dead_s", "fid"),
)

# advanced_s: when something was last added; sessions that are left alone end by it
uploads = Table(
    "uploads",
    metadata,
    Column("upload_id", Name, primary_key=True),
    Column("repository", Name, nullable=False),
    Column("file_id", BigInteger, ForeignKey(files.c.file_id), nullable=False, unique=True),
    Column("digest_state", LargeBinary, nullable=False),
    Column("started_s", Double, nullable=False),
    Column("advanced_s", Double, nullable=False, index=True),
)

repositories = Table("repositories", metadata, Column("repository", Name, primary_key=True))

# damaged_s: when a reader found that some of its chunks have no good copy left; a new push of the blob ends that
blobs = Table(
    "blobs",
    metadata,
    Column("digest", Name, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("file_id", BigInteger, ForeignKey(files.c.file_id), nullable=False, unique=True),
    Column("damaged_s", Double),
)

repository_blobs = Table(
    "repository_blobs",
    metadata,
    Column("repository", ForeignKey(repositories.c.repository), primary_key=True),
    Column("digest", ForeignKey(blobs.c.digest), primary_key=True, index=True),
    sqlite_with_rowid=False,
)

manifests = Table(
    "manifests",
    metadata,
    Column("digest", Name, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("file_id", BigInteger, ForeignKey(files.c.file_id), nullable=False, unique=True),
)

# The media type is what this repository's client declared: the same bytes may be pushed elsewhere under another.
repository_manifests = Table(
    "repository_manifests",
    metadata,
    Column("repository", ForeignKey(repositories.c.repository), primary_key=True),
    Column("digest", ForeignKey(manifests.c.digest), primary_key=True, index=True),
    Column("media_type", Text, nullable=False),
    Column("subject", Name),
    Column("artifact_type", Text),
    Column("annotations", Text, nullable=False),  # JSON object
    Index("ix_repository_manifests_repository_subject_digest", "repository", "subject", "digest"),
    sqlite_with_rowid=False,
)

# kind: "blob" and "manifest" had to be there when the manifest came, "optional" (foreign layers) did not.
manifest_references = Table(
    "manifest_references",
    metadata,
    Column("manifest", ForeignKey(manifests.c.digest), primary_key=True),
    Column("digest", Name, primary_key=True, index=True),
    Column("kind", Text, nullable=False),
    sqlite_with_rowid=False,
)

tags = Table(
    "tags",
    metadata,
    Column("repository", Name, primary_key=True),
    Column("tag", Name, primary_key=True),
    Column("digest", Name, nullable=False),
    ForeignKeyConstraint(["repository", "digest"], [repository_manifests.c.repository, repository_manifests.c.digest]),
    Index("ix_tags_repository_digest", "repository", "digest"),
    sqlite_with_rowid=False,
)
