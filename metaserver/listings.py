"""Pages of names, by their bytes: the tags of a repository and the repositories, over SQL."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, select

from metaserver import models as m
from metaserver import repository_rows
from metaserver.checks import check_limit, check_name
from metaserver.interface import Page
from metaserver.transactions import Transactions
from wire.errors import RepositoryUnknown

#: a client may ask to go on after anything, also after what could be no name
AFTER_BYTES_MAX = 1024

_TAGS = (
    select(m.tags.c.tag)
    .where(m.tags.c.repository == bindparam("of_repository"), m.tags.c.tag > bindparam("after"))
    .order_by(m.tags.c.tag)
    .limit(bindparam("row_count"))
)
_REPOSITORIES = (
    select(m.repositories.c.repository)
    .where(m.repositories.c.repository > bindparam("after"))
    .order_by(m.repositories.c.repository)
    .limit(bindparam("row_count"))
)


class Listings(Transactions):
    def tags(self, repository: str, after: str = "", limit: int = 1000) -> Page:
        check_name("the repository", repository)
        _check_page(after, limit)

        def list_tags(connection: Connection) -> Page:
            parameters = {"of_repository": repository, "after": after, "row_count": limit + 1}
            names = list(connection.scalars(_TAGS, parameters))
            # A tag proves its repository; only where there is none has the question to be asked.
            if not names and not repository_rows.exists(connection, repository):
                raise RepositoryUnknown(f"there is no repository {repository}")
            return _page(names, limit)

        return self._read(list_tags)

    def repositories(self, after: str = "", limit: int = 1000) -> Page:
        _check_page(after, limit)
        parameters = {"after": after, "row_count": limit + 1}
        names = self._read(lambda connection: list(connection.scalars(_REPOSITORIES, parameters)))
        return _page(names, limit)


def _check_page(after: str, limit: int) -> None:
    check_name("after", after, empty=True, bytes_max=AFTER_BYTES_MAX)
    check_limit(limit)


def _page(names: list[str], limit: int) -> Page:
    return Page(tuple(names[:limit]), more=len(names) > limit)
