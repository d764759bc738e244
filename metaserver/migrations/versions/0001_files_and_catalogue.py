"""Files of fragments, and the registry's catalogue. What each table is for: metaserver/models.py."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

# Spelled out, not taken from models.py: a revision stays what it was when the models go on.
Identifier = sa.BigInteger().with_variant(sa.Integer, "sqlite")
Name = sa.Text(collation="C").with_variant(sa.Text(collation="BINARY"), "sqlite")


def upgrade() -> None:
    make_files()
    make_uploads_and_blobs()
    make_manifests()


def make_files() -> None:
    op.create_table(
        "files",
        sa.Column("file_id", Identifier, autoincrement=True, nullable=False),
        sa.Column("path", Name),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("fragments", sa.Integer, nullable=False),
        sa.Column("created_s", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("file_id", name="pk_files"),
        sa.UniqueConstraint("path", name="uq_files_path"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "fragments",
        sa.Column("file_id", sa.BigInteger, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("length", sa.BigInteger, nullable=False),
        sa.Column("fid", sa.BigInteger, nullable=False),
        sa.Column("group_id", sa.Integer, nullable=False),
        sa.Column("crc32c", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("file_id", "offset", name="pk_fragments"),
        sa.UniqueConstraint("fid", name="uq_fragments_fid"),
        sa.ForeignKeyConstraint(["file_id"], ["files.file_id"], name="fk_fragments_file_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "dead_fragments",
        sa.Column("fid", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("length", sa.BigInteger, nullable=False),
        sa.Column("group_id", sa.Integer, nullable=False),
        sa.Column("crc32c", sa.BigInteger, nullable=False),
        sa.Column("dead_s", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("fid", name="pk_dead_fragments"),
    )
    op.create_index("ix_dead_fragments_dead_s_fid", "dead_fragments", ["dead_s", "fid"])


def make_uploads_and_blobs() -> None:
    op.create_table(
        "uploads",
        sa.Column("upload_id", Name, nullable=False),
        sa.Column("repository", Name, nullable=False),
        sa.Column("file_id", sa.BigInteger, nullable=False),
        sa.Column("digest_state", sa.LargeBinary, nullable=False),
        sa.Column("started_s", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("upload_id", name="pk_uploads"),
        sa.UniqueConstraint("file_id", name="uq_uploads_file_id"),
        sa.ForeignKeyConstraint(["file_id"], ["files.file_id"], name="fk_uploads_file_id"),
    )
    op.create_table(
        "repositories",
        sa.Column("repository", Name, nullable=False),
        sa.PrimaryKeyConstraint("repository", name="pk_repositories"),
    )
    make_content("blobs")
    op.create_table(
        "repository_blobs",
        sa.Column("repository", Name, nullable=False),
        sa.Column("digest", Name, nullable=False),
        sa.PrimaryKeyConstraint("repository", "digest", name="pk_repository_blobs"),
        sa.ForeignKeyConstraint(["repository"], ["repositories.repository"], name="fk_repository_blobs_repository"),
        sa.ForeignKeyConstraint(["digest"], ["blobs.digest"], name="fk_repository_blobs_digest"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_repository_blobs_digest", "repository_blobs", ["digest"])


def make_content(table: str) -> None:
    op.create_table(
        table,
        sa.Column("digest", Name, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("file_id", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("digest", name=f"pk_{table}"),
        sa.UniqueConstraint("file_id", name=f"uq_{table}_file_id"),
        sa.ForeignKeyConstraint(["file_id"], ["files.file_id"], name=f"fk_{table}_file_id"),
    )


def make_manifests() -> None:
    make_content("manifests")
    op.create_table(
        "repository_manifests",
        sa.Column("repository", Name, nullable=False),
        sa.Column("digest", Name, nullable=False),
        sa.Column("media_type", sa.Text, nullable=False),
        sa.Column("subject", Name),
        sa.Column("artifact_type", sa.Text),
        sa.Column("annotations", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("repository", "digest", name="pk_repository_manifests"),
        sa.ForeignKeyConstraint(["repository"], ["repositories.repository"], name="fk_repository_manifests_repository"),
        sa.ForeignKeyConstraint(["digest"], ["manifests.digest"], name="fk_repository_manifests_digest"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_repository_manifests_digest", "repository_manifests", ["digest"])
    op.create_index(
        "ix_repository_manifests_repository_subject_digest", "repository_manifests", ["repository", "subject", "digest"]
    )
    op.create_table(
        "manifest_references",
        sa.Column("manifest", Name, nullable=False),
        sa.Column("digest", Name, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("manifest", "digest", name="pk_manifest_references"),
        sa.ForeignKeyConstraint(["manifest"], ["manifests.digest"], name="fk_manifest_references_manifest"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_manifest_references_digest", "manifest_references", ["digest"])
    op.create_table(
        "tags",
        sa.Column("repository", Name, nullable=False),
        sa.Column("tag", Name, nullable=False),
        sa.Column("digest", Name, nullable=False),
        sa.PrimaryKeyConstraint("repository", "tag", name="pk_tags"),
        sa.ForeignKeyConstraint(
            ["repository", "digest"],
            ["repository_manifests.repository", "repository_manifests.digest"],
            name="fk_tags_repository",
        ),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_tags_repository_digest", "tags", ["repository", "digest"])
