"""Cluster, groups, members, fid counter and fid ranges.

Written out here and not taken from models.py: a revision says what it did, whatever the models become later.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from wire.database import byte_sorted_text

revision = "m0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "master_cluster",
        sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1"), primary_key=True, autoincrement=False),
        sa.Column("cluster_id", byte_sorted_text(), nullable=False),
        sa.Column("table_version", sa.BigInteger, nullable=False),
        sa.Column("last_group_id", sa.Integer, nullable=False),
        sa.Column("created_s", sa.Double, nullable=False),
    )
    op.create_table(
        "master_groups",
        sa.Column("group_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("replicas", sa.Integer, nullable=False),
        sa.Column("created_s", sa.Double, nullable=False),
    )
    op.create_table(
        "master_members",
        sa.Column("server_id", byte_sorted_text(), primary_key=True),
        sa.Column("group_id", sa.Integer, sa.ForeignKey("master_groups.group_id"), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("url", byte_sorted_text(), nullable=False),
        sa.Column("state", byte_sorted_text(), nullable=False),
        sa.Column("free_bytes", sa.BigInteger, nullable=False),
        sa.Column("total_bytes", sa.BigInteger, nullable=False),
        sa.Column("chunks", sa.BigInteger, nullable=False),
        sa.Column("changed_s", sa.Double, nullable=False),
    )
    op.create_index("master_members_by_group", "master_members", ["group_id", "position"], unique=True)
    op.create_table(
        "master_fid_counter",
        sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1"), primary_key=True, autoincrement=False),
        sa.Column("last_fid", sa.BigInteger, nullable=False),
        sa.Column("last_range_id", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "master_fid_ranges",
        sa.Column("range_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("first_fid", sa.BigInteger, nullable=False, unique=True),
        sa.Column("last_fid", sa.BigInteger, nullable=False),
        sa.Column("owner", byte_sorted_text(), nullable=False),
        sa.Column("opened_s", sa.Double, nullable=False),
        sa.Column("closed_s", sa.Double),
    )
