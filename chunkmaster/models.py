"""Tables of the ChunkMaster. Two rooms may share one database, so all names begin with `master_`.

Counters are columns of single rows, not sequences: a sequence of PostgreSQL gives numbers outside of the transaction,
and cannot be moved above what ChunkServers report in the same breath.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, Double, ForeignKey, Index, Integer, MetaData, Table

from wire.database import byte_sorted_text

metadata = MetaData()

#: one row. table_version counts the changes of groups and members; a change locks this row first.
cluster = Table(
    "master_cluster",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1"), primary_key=True, autoincrement=False),
    Column("cluster_id", byte_sorted_text(), nullable=False),
    Column("table_version", BigInteger, nullable=False),
    Column("last_group_id", Integer, nullable=False),
    Column("created_s", Double, nullable=False),
)

groups = Table(
    "master_groups",
    metadata,
    Column("group_id", Integer, primary_key=True, autoincrement=False),
    Column("replicas", Integer, nullable=False),
    Column("created_s", Double, nullable=False),
)

#: state and space are written when they change worth telling, not with every heartbeat (chunkmaster.health)
members = Table(
    "master_members",
    metadata,
    Column("server_id", byte_sorted_text(), primary_key=True),
    Column("group_id", Integer, ForeignKey("master_groups.group_id"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("url", byte_sorted_text(), nullable=False),
    Column("state", byte_sorted_text(), nullable=False),
    Column("free_bytes", BigInteger, nullable=False),
    Column("total_bytes", BigInteger, nullable=False),
    Column("chunks", BigInteger, nullable=False),
    Column("changed_s", Double, nullable=False),
    Index("master_members_by_group", "group_id", "position", unique=True),
)

#: one row; a reservation locks it
fid_counter = Table(
    "master_fid_counter",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1"), primary_key=True, autoincrement=False),
    Column("last_fid", BigInteger, nullable=False),
    Column("last_range_id", BigInteger, nullable=False),
)

#: open while closed_s is null
fid_ranges = Table(
    "master_fid_ranges",
    metadata,
    Column("range_id", BigInteger, primary_key=True, autoincrement=False),
    Column("first_fid", BigInteger, nullable=False, unique=True),
    Column("last_fid", BigInteger, nullable=False),
    Column("owner", byte_sorted_text(), nullable=False),
    Column("opened_s", Double, nullable=False),
    Column("closed_s", Double),
)
