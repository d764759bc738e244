"""The row of a repository: there as long as the repository has a blob or a manifest. Functions of their caller's
transaction.

Its lock comes first in every transaction that changes what a repository has. Who adds shares it (pushes into one
repository do not wait for each other), who takes away holds it alone. So what put_manifest has seen in its repository
is still there when it commits.
"""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, delete, literal, select
from sqlalchemy.dialects import postgresql, sqlite

from metaserver import models as m
from wire.errors import Overloaded

#: how often a repository's row may vanish between looking and inserting before the request gives up
TRIES_MAX = 10

_FIND = select(m.repositories.c.repository).where(m.repositories.c.repository == bindparam("of_repository"))
_LOCK_SHARED = _FIND.with_for_update(read=True, key_share=True)
_LOCK_ALONE = _FIND.with_for_update()
_INSERT = {
    "postgresql": postgresql.insert(m.repositories).on_conflict_do_nothing(),
    "sqlite": sqlite.insert(m.repositories).on_conflict_do_nothing(),
}
_DELETE_EMPTY = (
    delete(m.repositories)
    .where(m.repositories.c.repository == bindparam("of_repository"))
    .where(~select(literal(1)).where(m.repository_blobs.c.repository == m.repositories.c.repository).exists())
    .where(~select(literal(1)).where(m.repository_manifests.c.repository == m.repositories.c.repository).exists())
)


def exists(connection: Connection, repository: str) -> bool:
    return connection.execute(_FIND, {"of_repository": repository}).first() is not None


def share(connection: Connection, repository: str) -> bool:
    """False when there is no such repository; else it loses nothing until the transaction ends."""
    return connection.execute(_LOCK_SHARED, {"of_repository": repository}).first() is not None


def keep(connection: Connection, repository: str) -> None:
    """As share, but makes the repository if need be."""
    for _ in range(TRIES_MAX):
        if share(connection, repository):
            return
        if connection.execute(_INSERT[connection.dialect.name], {"repository": repository}).rowcount == 1:
            return
    raise Overloaded(f"repository {repository} was deleted and made again too often meanwhile", retry_after_s=1)


def lock(connection: Connection, repository: str) -> bool:
    """False when there is no such repository; else nobody adds to it or takes from it until the transaction ends."""
    return connection.execute(_LOCK_ALONE, {"of_repository": repository}).first() is not None


def drop_if_empty(connection: Connection, repository: str) -> None:
    """After `lock` and a removal."""
    connection.execute(_DELETE_EMPTY, {"of_repository": repository})
