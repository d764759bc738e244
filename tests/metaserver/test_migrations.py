"""The MetaServer's schema: what the migrations make is what metaserver.models says, and other schemas are refused."""

from __future__ import annotations

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from metaserver import migrations
from metaserver.core import LocalMetaStore
from metaserver.models import metadata
from tests.metaserver.stores import Opened
from wire.database import create_engine, run_transaction
from wire.errors import Unavailable


def test_the_migrations_make_exactly_the_tables_of_the_models(local_store: Opened) -> None:
    def compare(connection: Connection) -> list[object]:
        options = {
            "compare_type": True,
            "include_object": lambda _object, name, kind, *_rest: kind != "table" or name != migrations.VERSION_TABLE,
        }
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))

    assert run_transaction(local_store.engine, compare, read_only=True) == []


def test_names_are_kept_in_byte_order_by_every_column_that_is_listed(postgres_store: Opened) -> None:
    query = text(
        "SELECT table_name || '.' || column_name FROM information_schema.columns "
        "WHERE table_schema = 'public' AND data_type = 'text' AND collation_name IS DISTINCT FROM 'C' "
        "ORDER BY 1"
    )
    unsorted = run_transaction(postgres_store.engine, lambda c: list(c.scalars(query)), read_only=True)
    assert unsorted == [
        "manifest_references.kind",
        "repository_manifests.annotations",
        "repository_manifests.artifact_type",
        "repository_manifests.media_type",
    ]


def test_a_database_without_schema_says_what_to_do(postgres_url: str) -> None:
    engine = create_engine(postgres_url)
    with pytest.raises(Unavailable, match="speedy migrate"):
        LocalMetaStore(engine).check()
    migrations.upgrade(engine)
    LocalMetaStore(engine).check()
    engine.dispose()


def test_a_newer_schema_is_refused_naming_both_revisions(local_store: Opened) -> None:
    newer = text(f"UPDATE {migrations.VERSION_TABLE} SET version_num = '9999'")
    run_transaction(local_store.engine, lambda c: c.execute(newer) and None)
    for refuse in (migrations.check, migrations.upgrade):
        with pytest.raises(Unavailable, match=r"9999.*0003"):
            refuse(local_store.engine)
