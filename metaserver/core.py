"""The MetaServer over SQLAlchemy: SQLite or PostgreSQL. Each part is a noun of the contract, in a file of its own."""

from __future__ import annotations

from metaserver import migrations
from metaserver.blobs import Blobs
from metaserver.files import Files
from metaserver.listings import Listings
from metaserver.manifests import Manifests
from metaserver.uploads import Uploads


class LocalMetaStore(Files, Uploads, Blobs, Manifests, Listings):
    """MetaStore (metaserver.interface) on an engine of wire.database.create_engine. Keeps nothing in memory, so any
    number of them, in any number of processes, may work on one database. The engine belongs to the caller."""

    def check(self) -> None:
        migrations.check(self._engine)
