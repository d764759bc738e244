"""The ChunkMaster's schema: made once by several starters, checked before use, equal to the models."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, text

from chunkmaster import migrations, models
from chunkmaster.core import LocalChunkMaster
from tests.postgres import PostgresServer
from wire.database import create_engine, run_transaction
from wire.errors import BadRequest, Conflict, Unavailable

CLUSTER = "5b0ff6a2-3c1e-4d55-9d3b-6a9f1c0e7a11"
OTHER = "c2ae1f3e-7b41-4f0e-8a6c-2f1d9b8e5d22"


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/master.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    with server.database() as address:
        yield address


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = create_engine(url)
    yield engine
    engine.dispose()


def test_several_starters_make_one_cluster(url: str) -> None:
    def start(_: int) -> str:
        engine = create_engine(url)
        try:
            return migrations.upgrade(engine)
        finally:
            engine.dispose()

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(start, range(6)))) == 1


def test_a_new_cluster_gets_the_id_it_is_given_and_keeps_it(engine: Engine) -> None:
    assert migrations.upgrade(engine, CLUSTER) == CLUSTER
    assert migrations.upgrade(engine) == CLUSTER
    assert LocalChunkMaster(engine).cluster_id == CLUSTER
    with pytest.raises(Conflict, match=f"{CLUSTER}.*{OTHER}"):
        migrations.upgrade(engine, OTHER)
    with pytest.raises(BadRequest):
        migrations.upgrade(engine, "my cluster")


def test_the_migrations_make_what_the_models_describe(engine: Engine) -> None:
    migrations.upgrade(engine)
    with engine.connect() as connection:
        options = {"include_name": lambda name, kind, _: kind != "table" or str(name).startswith("master_")}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, models.metadata) == []


def test_an_unmigrated_database_names_the_command(engine: Engine) -> None:
    with pytest.raises(Unavailable, match="speedy migrate"):
        migrations.check(engine)
    master = LocalChunkMaster(engine)
    for call in (master.check, master.group_table, lambda: master.reserve_fids("front-1", 1)):
        with pytest.raises(Unavailable, match="speedy migrate"):
            call()
    migrations.upgrade(engine)
    master.check()
    assert master.group_table() is not None


def test_a_newer_schema_is_refused(engine: Engine) -> None:
    migrations.upgrade(engine)
    newer = text(f"UPDATE {migrations.VERSION_TABLE} SET version_num = 'm9999'")
    run_transaction(engine, lambda connection: connection.execute(newer))
    for call in (lambda: migrations.check(engine), lambda: migrations.upgrade(engine), LocalChunkMaster(engine).check):
        with pytest.raises(Unavailable, match="m9999"):
            call()
