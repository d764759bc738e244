"""The MetaServer's schema: what the migrations make is what metaserver.models says, and other schemas are refused."""

from __future__ import annotations

import uuid

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, make_url, text

from metaserver import migrations
from metaserver.core import LocalMetaStore
from metaserver.models import metadata
from tests.metaserver.stores import Opened
from tests.ports import free_port
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


def test_a_role_that_may_make_no_tables_is_told_what_lets_it(postgres_url: str) -> None:
    owner = create_engine(postgres_url)
    name = f"guest_{uuid.uuid4().hex}"
    guest = create_engine(make_url(postgres_url).set(username=name, password="pw").render_as_string(False))

    def run(statement: str) -> None:
        run_transaction(owner, lambda c: c.execute(text(statement)) and None)

    run(f"CREATE ROLE {name} LOGIN PASSWORD 'pw'")
    try:
        with pytest.raises(Unavailable, match=f'permission denied .* OWNER TO "{name}"$'):
            migrations.upgrade(guest)
        run(f'ALTER DATABASE "{owner.url.database}" OWNER TO {name}')
        migrations.upgrade(guest)
    finally:
        guest.dispose()
        run(f"REASSIGN OWNED BY {name} TO CURRENT_USER")
        run(f"DROP ROLE {name}")
        owner.dispose()


def test_a_database_that_cannot_be_reached_is_named_in_one_line_without_its_password() -> None:
    port = free_port()
    engine = create_engine(f"postgresql://speedy:secret@127.0.0.1:{port}/images", wait_s=0.1)
    with pytest.raises(Unavailable) as caught:
        migrations.upgrade(engine)
    said = caught.value.message
    assert f"postgresql://speedy:***@127.0.0.1:{port}/images cannot be migrated: " in said
    assert "\n" not in said


def test_a_newer_schema_is_refused_naming_both_revisions(local_store: Opened) -> None:
    newer = text(f"UPDATE {migrations.VERSION_TABLE} SET version_num = '9999'")
    run_transaction(local_store.engine, lambda c: c.execute(newer) and None)
    for refuse in (migrations.check, migrations.upgrade):
        with pytest.raises(Unavailable, match=r"9999.*0003"):
            refuse(local_store.engine)
