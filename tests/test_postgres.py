"""The PostgreSQL that the tests run on is what they believe it to be."""

import pytest
import sqlalchemy as sa

from tests.postgres import PostgresServer

pytestmark = pytest.mark.postgres


def _value(url: str, statement: str) -> object:
    engine = sa.create_engine(url)
    try:
        with engine.connect() as connection:
            value: object = connection.execute(sa.text(statement)).scalar_one()
            return value
    finally:
        engine.dispose()


def test_commits_reach_the_disk(postgres_url: str) -> None:
    assert _value(postgres_url, "SHOW fsync") == "on"
    assert _value(postgres_url, "SHOW synchronous_commit") == "on"


def test_each_database_is_fresh_and_gone_afterwards(postgres_server: PostgresServer) -> None:
    count = "SELECT count(*) FROM pg_database WHERE datname LIKE 'speedy_%'"
    before = _value(postgres_server.url("postgres"), count)
    with postgres_server.database() as first, postgres_server.database() as second:
        assert first != second
        assert _value(first, "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == 0
    assert _value(postgres_server.url("postgres"), count) == before
    with pytest.raises(sa.exc.OperationalError, match="does not exist"):
        _value(first, "SELECT 1")


def test_text_does_not_sort_by_bytes_by_itself(postgres_url: str) -> None:
    if not _value(postgres_url, "SELECT current_setting('server_version_num')::int >= 150000"):
        pytest.skip("not run: PostgreSQL before 15 has no language rules without the machine's locales")
    names = "(VALUES ('b'), ('B'), ('a-b'), ('a/b'), ('ab')) AS names (n)"
    assert _value(postgres_url, f"SELECT string_agg(n, ' ' ORDER BY n) FROM {names}") != "B a-b a/b ab b"
    assert _value(postgres_url, f"SELECT string_agg(n, ' ' ORDER BY n COLLATE \"C\") FROM {names}") == "B a-b a/b ab b"


def test_a_stranger_without_the_password_is_refused(postgres_server: PostgresServer) -> None:
    url = postgres_server.url("postgres")
    stranger = sa.engine.make_url(url).set(password="wrong")
    with pytest.raises(sa.exc.OperationalError, match="password authentication failed"):
        _value(stranger.render_as_string(hide_password=False), "SELECT 1")
