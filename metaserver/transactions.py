"""How the MetaServer's parts talk to their database: one transaction per public method, opened and closed here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, Engine

from wire.database import run_transaction

T = TypeVar("T")


class Transactions:
    """A part of the MetaServer over `engine` (wire.database.create_engine), whose schema stands."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def _write(self, fn: Callable[[Connection], T]) -> T:
        # READ COMMITTED with row locks (metaserver.models says which) instead of SERIALIZABLE: on small tables
        # PostgreSQL sees collisions between pushes of different blobs, because their keys share an index page.
        return run_transaction(self._engine, fn, isolation="READ COMMITTED")

    def _read(self, fn: Callable[[Connection], T]) -> T:
        """For one statement, or several that need not agree with each other."""
        return run_transaction(self._engine, fn, read_only=True, isolation="AUTOCOMMIT")
