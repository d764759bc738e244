"""speedy cluster: a whole cluster as separate processes on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from speedy.cluster import ClusterFailed, LocalCluster
from speedy.cluster_plan import Wanted
from speedy.options import json_option
from speedy.tables import print_groups, print_processes, table_as_json
from wire.errors import SpeedyError
from wire.settings_load import parse_assignment

data_option = click.option(
    "--data",
    default="./cluster",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory of the cluster.",
)


@click.group(short_help="Run a whole cluster as separate processes on this machine.")
def cluster() -> None:
    """A whole cluster as separate processes on this machine: ChunkMaster, MetaServer, ChunkServers, ImageServers,
    registries. It goes on running after the command."""


def _overrides(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    try:
        return tuple(parse_assignment(value) for value in values)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc


@cluster.command()
@data_option
@click.option("--groups", type=int, help="Groups of ChunkServers (default: 2).")
@click.option("--replicas", type=int, help="ChunkServers in each group (default: 3).")
@click.option("--imageservers", type=int, help="ImageServers (default: 2).")
@click.option("--registries", type=int, help="Registry front ends (default: 2).")
@click.option(
    "--database", "database_url", metavar="URL", help="postgresql://... (default: SQLite files in the directory)."
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    callback=_overrides,
    help="A setting of all rooms.",
)
@click.option(
    "--timeout", "timeout_s", type=float, default=60.0, show_default=True, help="Seconds until all must be ready."
)
def up(data: Path, timeout_s: float, **wanted: Any) -> None:
    """Start the cluster, or what does not run of it. Larger numbers than before let it grow while it runs."""
    local = LocalCluster(data, click.echo)
    try:
        plan = local.up(Wanted(**wanted), timeout_s=timeout_s)
    except ClusterFailed as exc:
        raise click.ClickException(
            f"the cluster is not ready.\n{exc}\nThe others go on; `speedy cluster down --data {data}` stops them."
        ) from exc
    click.echo(f"The cluster in {local.directory} is ready. Its registries are")
    for registry in plan.of("registry"):
        click.echo(f"  {registry.url}")
    first = plan.of("registry")[0].url.removeprefix("http://")
    click.echo(
        f"Push an image: docker tag IMAGE {first}/first/image && docker push {first}/first/image\n"
        f"See it:        speedy cluster status --data {data}\n"
        f"Stop it:       speedy cluster down --data {data}"
    )


@cluster.command("add-group")
@data_option
@click.option(
    "--timeout", "timeout_s", type=float, default=60.0, show_default=True, help="Seconds until all must be ready."
)
def add_group(data: Path, timeout_s: float) -> None:
    """Start the ChunkServers of one more group and add it, while everything runs."""
    try:
        number = LocalCluster(data).add_group(timeout_s=timeout_s)
    except ClusterFailed as exc:
        raise click.ClickException(str(exc)) from exc
    click.echo(f"Group {number} takes chunks.")


@cluster.command()
@data_option
def down(data: Path) -> None:
    """Stop all processes of the cluster; what is stored stays."""
    killed = LocalCluster(data).down()
    click.echo(
        "The cluster is down."
        + (f" Did not end by themselves, and were killed: {', '.join(killed)}." if killed else "")
    )


@cluster.command()
@data_option
@json_option
def status(data: Path, as_json: bool) -> None:
    """Show processes, groups, members, health and free space. The status is 1 unless every process is ready."""
    local = LocalCluster(data)
    states = local.states()
    table, trouble = None, ""
    try:
        table = local.group_table()
    except SpeedyError as exc:
        trouble = str(exc)
    if as_json:
        processes = [
            {**asdict(s.process), "url": s.process.url, "pid": s.pid, "state": s.state, "reason": s.reason}
            for s in states
        ]
        click.echo(json.dumps({"processes": processes, "groups": table_as_json(table), "trouble": trouble}, indent=1))
    else:
        print_processes([(s.process.name, s.process.url, str(s.pid or ""), s.state, s.reason) for s in states])
        print_groups(table, trouble)
    if all(state.state == "down" for state in states):
        click.echo(f"The cluster is down. Start it: speedy cluster up --data {data}", err=True)
    if any(state.state != "ready" for state in states):
        raise SystemExit(1)
