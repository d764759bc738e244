"""Groups and members as rows: reading them whole, adding a group, writing changed states. One transaction each.

`version` is the row master_cluster.table_version and nothing else: every change that clients must see is a row, and
counts it up in the same transaction. So one version means one content on every master of a database, before and after
any restart.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, Row, insert, select, update

from chunkmaster.health import MemberRow
from chunkmaster.models import cluster, groups, members
from wire.database import now_s, run_transaction
from wire.errors import Conflict, Unavailable


@dataclass(frozen=True, slots=True)
class TableRows:
    """`groups` maps a group id to (number of replicas, ids of its members in order), `members` a server id to its
    row."""

    cluster_id: str
    version: int
    groups: dict[int, tuple[int, tuple[str, ...]]]
    members: dict[str, MemberRow]


def load(engine: Engine, known: TableRows | None = None) -> TableRows:
    """The rows; `known` itself when they have not changed since (one query by primary key)."""

    def read(connection: Connection) -> TableRows:
        row = connection.execute(select(cluster.c.cluster_id, cluster.c.table_version)).one_or_none()
        if row is None:
            raise Unavailable("the database holds no cluster yet: run `speedy migrate`")
        if known is not None and (known.cluster_id, known.version) == (row.cluster_id, row.table_version):
            return known
        rows = {found.server_id: _member_row(found) for found in connection.execute(_all_members)}
        of_group: dict[int, list[str]] = {}
        for member in rows.values():
            of_group.setdefault(member.group_id, []).append(member.server_id)
        return TableRows(
            cluster_id=row.cluster_id,
            version=row.table_version,
            groups={
                found.group_id: (found.replicas, tuple(of_group.get(found.group_id, ())))
                for found in connection.execute(_all_groups)
            },
            members=rows,
        )

    return run_transaction(engine, read, read_only=True)


def add_group(engine: Engine, added: tuple[tuple[str, str], ...]) -> int:
    """The id of the group of these (server_id, url) members, made when there is none.

    Raises Conflict when a server or an address belongs to another group.
    """
    urls = dict(added)

    def write(connection: Connection) -> int:
        group_id = _lock(connection).last_group_id + 1
        taken = connection.execute(
            select(members.c.server_id, members.c.group_id, members.c.url).where(
                members.c.server_id.in_(urls) | members.c.url.in_(urls.values())
            )
        ).all()
        if taken:
            return _existing(connection, frozenset(urls), taken[0].group_id, taken[0].server_id)
        connection.execute(insert(groups).values(group_id=group_id, replicas=len(added), created_s=now_s()))
        for position, (server_id, url) in enumerate(added):
            connection.execute(
                insert(members).values(
                    server_id=server_id,
                    group_id=group_id,
                    position=position,
                    url=url,
                    state="new",
                    free_bytes=0,
                    total_bytes=0,
                    chunks=0,
                    changed_s=now_s(),
                )
            )
        connection.execute(update(cluster).values(last_group_id=group_id, table_version=cluster.c.table_version + 1))
        return int(group_id)

    return run_transaction(engine, write, isolation="READ COMMITTED")


def write_members(engine: Engine, changed: Iterable[MemberRow]) -> None:
    """Write states, addresses and space; a new version only if a row really differs (another master may have been
    first)."""
    wanted = {row.server_id: row for row in changed}

    def write(connection: Connection) -> None:
        _lock(connection)
        found = connection.execute(_all_members.where(members.c.server_id.in_(wanted))).all()
        differing = [wanted[row.server_id] for row in found if _member_row(row) != wanted[row.server_id]]
        for row in differing:
            connection.execute(
                update(members)
                .where(members.c.server_id == row.server_id)
                .values(
                    url=row.url,
                    state=row.state,
                    free_bytes=row.free_bytes,
                    total_bytes=row.total_bytes,
                    chunks=row.chunks,
                    changed_s=now_s(),
                )
            )
        if differing:
            connection.execute(update(cluster).values(table_version=cluster.c.table_version + 1))

    run_transaction(engine, write, isolation="READ COMMITTED")


_all_groups = select(groups.c.group_id, groups.c.replicas).order_by(groups.c.group_id)
_all_members = select(members).order_by(members.c.group_id, members.c.position)


def _lock(connection: Connection) -> Row[Any]:
    """Hold the cluster's row: changes of the table come one after the other. (SQLite has one writer anyway.)"""
    row = connection.execute(select(cluster.c.last_group_id).with_for_update()).one_or_none()
    if row is None:
        raise Unavailable("the database holds no cluster yet: run `speedy migrate`")
    return row


def _existing(connection: Connection, server_ids: frozenset[str], group_id: int, taken_by: str) -> int:
    found = connection.scalars(select(members.c.server_id).where(members.c.group_id == group_id)).all()
    if frozenset(found) != server_ids:
        raise Conflict(
            f"server {taken_by} or its address belongs to group {group_id} already, "
            f"whose members are {', '.join(sorted(found))}"
        )
    return group_id


def _member_row(row: Row[Any]) -> MemberRow:
    return MemberRow(
        server_id=row.server_id,
        group_id=row.group_id,
        url=row.url,
        state=row.state,
        free_bytes=row.free_bytes,
        total_bytes=row.total_bytes,
        chunks=row.chunks,
    )
