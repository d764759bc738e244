"""speedy status: how a cluster, or the embedded server of a data directory, is."""

from __future__ import annotations

import json
from pathlib import Path

import click

from speedy.cluster import readiness
from speedy.options import config_option, json_option, read_settings
from speedy.reach import embedded_url, reach_master
from speedy.tables import print_groups, print_processes, table_as_json
from wire.errors import SpeedyError
from wire.settings import Settings


@click.command(short_help="Show groups, members, health and free space.")
@click.option("--data", metavar="DIRECTORY", help="Data directory of an embedded server (default: ./data).")
@config_option
@json_option
def status(data: str | None, config_file: Path | None, as_json: bool) -> None:
    """Show rooms, groups, members, health and free space: of the cluster that the settings name, else of the embedded
    server on a data directory. The status is 1 unless everything is ready."""
    settings = read_settings(config_file, {"registry.data": data})
    rooms = [(name, url, *readiness(url)) for name, url in _rooms(settings)]
    table, trouble = None, ""
    try:
        with reach_master(settings) as master:
            table = master.group_table()
    except SpeedyError as exc:
        trouble = str(exc)
    if as_json:
        told = [{"room": name, "url": url, "ready": ready, "reason": reason} for name, url, ready, reason in rooms]
        click.echo(json.dumps({"rooms": told, "groups": table_as_json(table), "trouble": trouble}, indent=1))
    else:
        print_processes(
            [(name, url, "", "ready" if ready else "not ready", reason) for name, url, ready, reason in rooms]
        )
        print_groups(table, trouble)
    if trouble or not all(ready for _, _, ready, _ in rooms):
        raise SystemExit(1)


def _rooms(settings: Settings) -> list[tuple[str, str]]:
    cluster = settings.cluster
    if not cluster.masters:
        return [("embedded server", embedded_url(settings.registry.data))]
    return [
        *(("chunkmaster", url) for url in cluster.masters),
        *(("metaserver", url) for url in cluster.metaservers),
        *(("imageserver", url) for url in cluster.imageservers),
    ]
