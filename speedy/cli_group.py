"""speedy group: groups of ChunkServers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import click
import requests

from chunkmaster.interface import Member
from speedy.options import config_option, json_option, read_settings
from speedy.reach import reach_master
from speedy.tables import print_groups, table_as_json
from speedy.waiting import PATIENCE_S, until_answered
from wire.values import to_json

#: how long a new member may take to answer
_ASK_S = 2.0


@click.group(short_help="Add groups of ChunkServers, or list them.")
def group() -> None:
    """Groups of ChunkServers: all members of a group hold the same chunks. Capacity is added by adding groups."""


@group.command()
@click.argument("members", nargs=-1, required=True, metavar="SERVER_ID=URL...")
@config_option
@json_option
def add(members: tuple[str, ...], config_file: Path | None, as_json: bool) -> None:
    """Add a group of running ChunkServers. Nothing restarts, no byte moves; new chunks land there within seconds.

    The same members again change nothing. A ChunkMaster that does not answer yet is asked again for half a minute.
    """
    pairs = []
    for member in members:
        server_id, equals, url = member.partition("=")
        if not (server_id and equals and url):
            raise click.BadParameter(f"{member!r} is not of the form SERVER_ID=http://host:port")
        pairs.append((server_id, url))
    with reach_master(read_settings(config_file), changes=True) as master:
        added = until_answered(
            lambda: master.add_group(tuple(pairs)),
            lambda why: click.echo(f"{why}; trying again for {PATIENCE_S:g} s", err=True),
        )
    if as_json:
        click.echo(json.dumps(to_json(added), indent=1))
    else:
        click.echo(f"Group {added.group_id} has the members {', '.join(member.server_id for member in added.members)}.")
    silent = _silent(added.members)
    if silent:
        click.echo(
            f"Warning: nothing answers from here at {', '.join(silent)}. No chunk lands in the group before all its "
            "members have reported to the ChunkMaster; `speedy group list` shows them.",
            err=True,
        )


def _silent(members: Iterable[Member]) -> list[str]:
    """Addresses where no server is to be reached from this machine, which need not be in the members' network."""
    silent = []
    with requests.Session() as session:
        session.trust_env = False  # a proxy for the world outside knows nothing of a cluster
        for member in members:
            try:
                session.get(f"{member.url}/healthz", timeout=_ASK_S).close()
            except requests.RequestException:
                silent.append(member.url)
    return silent


@group.command("list")
@config_option
@json_option
def list_groups(config_file: Path | None, as_json: bool) -> None:
    """Show groups and members."""
    with reach_master(read_settings(config_file)) as master:
        table = master.group_table()
    if as_json:
        click.echo(json.dumps(table_as_json(table), indent=1))
    else:
        print_groups(table, "")
