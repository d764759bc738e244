"""speedy group: groups of ChunkServers."""

from __future__ import annotations

import json
from pathlib import Path

import click

from speedy.options import config_option, json_option, read_settings
from speedy.reach import reach_master
from speedy.tables import print_groups, table_as_json
from wire.values import to_json


@click.group(short_help="Add groups of ChunkServers, or list them.")
def group() -> None:
    """Groups of ChunkServers: all members of a group hold the same chunks. Capacity is added by adding groups."""


@group.command()
@click.argument("members", nargs=-1, required=True, metavar="SERVER_ID=URL...")
@config_option
@json_option
def add(members: tuple[str, ...], config_file: Path | None, as_json: bool) -> None:
    """Add a group of running ChunkServers. Nothing restarts, no byte moves; new chunks land there within seconds.

    The same members again change nothing.
    """
    pairs = []
    for member in members:
        server_id, equals, url = member.partition("=")
        if not (server_id and equals and url):
            raise click.BadParameter(f"{member!r} is not of the form SERVER_ID=http://host:port")
        pairs.append((server_id, url))
    with reach_master(read_settings(config_file), changes=True) as master:
        added = master.add_group(tuple(pairs))
    if as_json:
        click.echo(json.dumps(to_json(added), indent=1))
    else:
        click.echo(f"Group {added.group_id} has the members {', '.join(member.server_id for member in added.members)}.")


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
