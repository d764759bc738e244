"""CLIENTS.md says what the tests show."""

import platform

import pytest

from tests.clients import table


def test_the_table_of_clients_is_that_of_the_tests() -> None:
    assert table.written_table() == table.table(), "python -m tests.clients.table writes it anew"


def test_every_client_of_the_table_has_its_version_in_it() -> None:
    assert {row.client for row in table.rows()} == set(table.VERSION_COMMANDS) <= set(table.written_versions())


@pytest.mark.clients
@pytest.mark.skipif(
    platform.freedesktop_os_release().get("VERSION_CODENAME") != "bookworm", reason="the versions are Debian 12's"
)
@pytest.mark.parametrize("client", table.VERSION_COMMANDS)
def test_the_versions_are_those_that_ran(client: str) -> None:
    # The last number may move with a security update.
    assert table.installed_version(client).split(".")[:2] == table.written_versions()[client].split(".")[:2]
