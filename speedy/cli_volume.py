"""speedy volume: the files in which a ChunkServer keeps its chunks, of a stopped server or a running one.

ls, show, verify and dump open a stopped server's directory for reading only: they change no byte of it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from chunkserver.interface import Operation
from native.values import Damage
from speedy.options import config_option, json_option
from speedy.tables import counted, print_rows, size
from speedy.volume_operation import pauses, progress, run_operation
from speedy.volume_place import open_place
from speedy.waiting import until_answered
from wire.settings_values import Size
from wire.values import to_json

PAGE = 10_000
#: status after Ctrl-C, as shells have it
INTERRUPTED = 130

_data_option = click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Directory of a ChunkServer or of an embedded server, stopped or running (default: chunkserver.data of the "
    "settings).",
)
_url_option = click.option(
    "--url", metavar="URL", help="A running server: http://host:port (cluster.key_file of the settings)."
)
_rate_option = click.option(
    "--rate", metavar="SIZE", help='Bytes per second, like "64MiB"; 0: no bound (default: the server\'s own bound).'
)
_volumes_argument = click.argument("volumes", type=click.IntRange(1), nargs=-1, metavar="[VOLUME]...")


def _everywhere(command: Callable[..., None]) -> Callable[..., None]:
    """The options that all commands have."""
    for option in (json_option, config_option, _url_option, _data_option):
        command = option(command)
    return command


@click.group(short_help="Look into the files that keep the chunks, verify, scrub and compact them.")
def volume() -> None:
    """The volumes of a ChunkServer: files of many chunks each."""


@volume.command("ls", short_help="List the volumes: state, size, and what of it is live.")
@_everywhere
def list_volumes(data: Path | None, url: str | None, config_file: Path | None, as_json: bool) -> None:
    """List the volumes: state, size, and how much of it is live, dead, padding and free."""
    with open_place(config_file, data, url) as place:
        volumes = place.upkeep.volumes()
    if as_json:
        click.echo(json.dumps(to_json(volumes), indent=1))
        return
    rows = []
    for one in volumes:
        written = one.live_bytes + one.dead_bytes + one.pad_bytes
        share = f"{100 * one.live_bytes / written:.0f} %" if one.live_bytes else "-"
        sizes = (one.size_bytes, one.live_bytes, one.dead_bytes, one.pad_bytes, one.free_bytes)
        rows.append([str(one.id), one.state, f"{one.chunks:,}", *map(size, sizes), share])
    print_rows(["volume", "state"], ["chunks", "size", "live", "dead", "pad", "free", "live share"], rows)


@volume.command(short_help="Show the live chunks of a volume.")
@click.argument("number", type=click.IntRange(1), metavar="VOLUME")
@click.option("--limit", type=click.IntRange(1), default=1000, show_default=True, help="Chunks to show.")
@_everywhere
def show(  # noqa: PLR0917 - click names them
    number: int, limit: int, data: Path | None, url: str | None, config_file: Path | None, as_json: bool
) -> None:
    """Show the live chunks of a volume in the order of their places."""
    found: list[Any] = []
    with open_place(config_file, data, url) as place:
        while len(found) < limit:
            wanted = min(PAGE, limit - len(found))
            page = place.upkeep.volume_chunks(number, found[-1].offset if found else 0, wanted)
            found += page
            if len(page) < wanted:
                break
    if as_json:
        click.echo(json.dumps(to_json(found), indent=1))
        return
    rows = [
        [time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(chunk.created_s)), f"{chunk.crc32c:08x}", str(chunk.fid),
         str(chunk.offset), str(chunk.length)]
        for chunk in found
    ]  # fmt: skip
    print_rows(["created (UTC)", "crc32c"], ["fid", "offset", "length"], rows)


@volume.command(short_help="Read and verify everything, or these volumes; write nothing.")
@_volumes_argument
@_rate_option
@_everywhere
def verify(  # noqa: PLR0917 - click names them
    volumes: tuple[int, ...],
    rate: str | None,
    data: Path | None,
    url: str | None,
    config_file: Path | None,
    as_json: bool,
) -> None:
    """Read everything, or these volumes, past the page cache, and report each damaged chunk: then the status is 1.
    Nothing is written. Ctrl-C ends it, also at a running server."""
    bytes_s = _rate(rate)
    with open_place(config_file, data, url) as place:
        if bytes_s is None and not place.running:
            bytes_s = 0
        start = partial(place.upkeep.start_verify, volumes=volumes, bytes_s=bytes_s)
        told, interrupted = run_operation(start, place.upkeep, quiet=as_json)
    _report(to_json(told) if as_json else None, told.chunks, told.damaged, told.damage)
    if not as_json and told.volumes_gone:
        gone = ", ".join(map(str, told.volumes_gone))
        click.echo(f"Compacted meanwhile, which verifies chunks too: volume {gone}.")
    _end(told, interrupted)
    if told.damaged:
        raise SystemExit(1)


@volume.command(short_help="Write the bytes of a chunk to standard output.")
@click.argument("fid", type=click.IntRange(1))
@_everywhere
def dump(fid: int, data: Path | None, url: str | None, config_file: Path | None, as_json: bool) -> None:
    """Write the bytes of a chunk, verified, to standard output. With --json tell where it lies, if it is good."""
    with open_place(config_file, data, url) as place:
        info = place.chunks.info(fid)
        payload = bytearray(info.length)
        place.chunks.read_into(fid, 0, payload)
    if as_json:
        click.echo(json.dumps(to_json(info), indent=1))
        return
    sys.stdout.buffer.write(payload)
    sys.stdout.buffer.flush()


@volume.command(short_help="Scrub now: verify everything, as the server does by itself.")
@click.option("--fresh", is_flag=True, help="Begin a new round, even if one is under way.")
@_rate_option
@_everywhere
def scrub(  # noqa: PLR0917 - click names them
    fresh: bool, rate: str | None, data: Path | None, url: str | None, config_file: Path | None, as_json: bool
) -> None:
    """Scrub now: go on with the round under way, or begin one, and wait for its end. The status is 1 when chunks are
    damaged. Of a running server, stopping this command does not stop the scrub."""
    bytes_s = _rate(rate)
    if bytes_s == 0:
        raise click.BadParameter("the scrub goes on at a rate", param_hint="--rate")
    with open_place(config_file, data, url, writing=True) as place:
        status = place.upkeep.start_scrub(fresh=fresh, bytes_s=bytes_s)
        with progress(as_json) as show_progress:
            for _ in pauses():
                if status.rounds >= status.round:
                    break
                show_progress(status.checked_bytes, status.total_bytes)
                if status.state == "paused":
                    raise click.ClickException("somebody has stopped the scrub; the same command lets it go on")
                status = until_answered(place.upkeep.scrub_status)
    _report(to_json(status) if as_json else None, status.checked_chunks, status.known_damaged, status.damage)
    if status.known_damaged:
        raise SystemExit(1)


@volume.command(short_help="Give the space of deleted chunks back now.")
@_volumes_argument
@click.option(
    "--below", type=click.FloatRange(0, 1, min_open=True),
    help="Compact all volumes whose live share is smaller (default: chunkserver.compact_below).",
)  # fmt: skip
@_rate_option
@_everywhere
def compact(  # noqa: PLR0917 - click names them
    volumes: tuple[int, ...],
    below: float | None,
    rate: str | None,
    data: Path | None,
    url: str | None,
    config_file: Path | None,
    as_json: bool,
) -> None:
    """Compact now: these volumes whatever they hold, or all whose live share is small. Chunks stay readable meanwhile.
    Ctrl-C ends it, also at a running server; what it has moved by then counts."""
    if volumes and below is not None:
        raise click.UsageError("--below chooses volumes, and these are named: one of them")
    bytes_s = _rate(rate)
    with open_place(config_file, data, url, writing=True) as place:
        if bytes_s is None and not place.running:
            bytes_s = 0
        start = partial(place.upkeep.start_compaction, volumes=volumes, below=below, bytes_s=bytes_s)
        told, interrupted = run_operation(start, place.upkeep, quiet=as_json)
    if as_json:
        click.echo(json.dumps(to_json(told), indent=1))
    else:
        click.echo(
            f"Removed {counted(told.volumes_removed, 'volume')}, made {told.volumes_made}; copied "
            f"{counted(told.chunks, 'chunk')} "
            f"({size(told.done_bytes)}), gave {size(told.given_back_bytes)} back to the file system."
        )
        if told.volumes_damaged:
            click.echo(f"Volumes that stay because they hold damaged chunks: {told.volumes_damaged}.")
        if told.volumes_left:
            left = ", ".join(map(str, told.volumes_left))
            click.echo(f"Not compacted: volume {left} (in use, damaged or failed: `speedy volume ls`, `verify`).")
    _end(told, interrupted)
    if told.volumes_left:
        raise SystemExit(1)


def _rate(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return Size(0).parse(text, Path())
    except (ValueError, OverflowError) as exc:
        raise click.BadParameter(
            f"{text!r} is not a number of bytes per second, or a size like 64MiB", param_hint="--rate"
        ) from exc


def _report(as_json: Any, checked: int, damaged: int, damage: Sequence[Damage]) -> None:
    """`as_json`: what to print instead of a table."""
    if as_json is not None:
        click.echo(json.dumps(as_json, indent=1))
        return
    if damage:
        rows = [
            [one.what, str(one.fid or "superblock"), str(one.volume), str(one.offset), str(one.length)]
            for one in damage
        ]
        print_rows(["damage"], ["fid", "volume", "offset", "length"], rows)
        click.echo()
    more = f" ({damaged - len(damage)} are not listed)" if damaged > len(damage) else ""
    click.echo(f"Checked {counted(checked, 'chunk')}; damaged places: {damaged or 'none'}{more}.")


def _end(told: Operation, interrupted: bool) -> None:
    """Ends the command here unless all was done."""
    if told.state == "failed":
        raise click.ClickException(f"the {told.kind} failed: {told.trouble}")
    if interrupted:
        click.echo("Stopped before the end." if told.state == "stopped" else "It ends in a moment.", err=True)
        raise SystemExit(INTERRUPTED)
    if told.state == "stopped":
        raise click.ClickException(f"the {told.kind} was stopped before its end, by the server or by somebody else")
