"""speedy volume: the files in which a ChunkServer keeps its chunks, of a stopped server or a running one.

ls, show, verify and dump open a stopped server's directory for reading only: they change no byte of it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from chunkserver.client import HttpChunkStore
from chunkserver.wsgi import engine_options
from native.engine import Engine
from native.errors import ChunkCorrupt, ChunkNotFound, EngineError, StoreLocked, VolumeNotFound
from native.values import Damage
from speedy.options import config_option, json_option, read_settings
from speedy.reach import load_key
from speedy.tables import print_rows, size
from wire.errors import BadRequest
from wire.settings import Settings
from wire.settings_values import Size
from wire.values import to_json

STEP_BYTES = 16 * 1024 * 1024
POLL_S = 0.5
PAGE = 10_000

data_option = click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Directory of a stopped ChunkServer or embedded server (default: chunkserver.data of the settings).",
)
url_option = click.option(
    "--url", metavar="URL", help="A running ChunkServer: http://host:port (cluster.key_file of the settings)."
)


@click.group(short_help="Look into the files that keep the chunks, verify, scrub and compact them.")
def volume() -> None:
    """The volumes of a ChunkServer: files of many chunks each."""


@contextmanager
def _stopped(settings: Settings, data: Path | None, *, writing: bool = False) -> Iterator[Engine]:
    """The store of a stopped server's directory; for reading only unless `writing`."""
    path = data or settings.chunkserver.data
    path = path / "chunks" if (path / "speedy.json").exists() else path
    try:
        cluster_id = json.loads((path / "server.json").read_text("utf-8"))["cluster_id"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise click.ClickException(f"{path} is not a ChunkServer's directory: server.json cannot be read") from exc
    if cluster_id is None:
        raise click.ClickException(f"the server of {path} has not joined a cluster yet: it holds no chunks")
    options = replace(
        engine_options(settings.chunkserver, cluster_id), create=False, read_only=not writing, compact_below=0.0
    )
    try:
        with Engine.open(path / "disk", options) as engine:
            yield engine
    except StoreLocked as exc:
        raise click.ClickException(
            f"{path} is in use by a running server: stop it first, or ask a running ChunkServer with --url "
            "(ls, show, dump and scrub can)"
        ) from exc
    except (ChunkNotFound, VolumeNotFound, ChunkCorrupt, EngineError) as exc:
        raise click.ClickException(str(exc)) from exc


@contextmanager
def _place(config_file: Path | None, data: Path | None, url: str | None) -> Iterator[Engine | HttpChunkStore]:
    if data is not None and url is not None:
        raise click.UsageError("--data is a stopped server's directory, --url a running server: one of them")
    settings = read_settings(config_file)
    if url is None:
        with _stopped(settings, data) as engine:
            yield engine
        return
    if settings.cluster.key_file is None:
        raise BadRequest("cluster.key_file is not set: a running server asks for the cluster's key")
    try:
        store = HttpChunkStore(url, load_key(settings.cluster.key_file))
    except ValueError as exc:
        raise click.UsageError(str(exc)) from exc
    try:
        yield store
    finally:
        store.close()


@volume.command("ls")
@data_option
@url_option
@config_option
@json_option
def list_volumes(data: Path | None, url: str | None, config_file: Path | None, as_json: bool) -> None:
    """List the volumes: state, size, and how much of it is live, dead, padding and free."""
    with _place(config_file, data, url) as place:
        volumes = place.volumes()
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


@volume.command()
@click.argument("number", type=click.IntRange(1), metavar="VOLUME")
@click.option("--limit", type=click.IntRange(1), default=1000, show_default=True, help="Chunks to show.")
@data_option
@url_option
@config_option
@json_option
def show(  # noqa: PLR0917 - click names them
    number: int, limit: int, data: Path | None, url: str | None, config_file: Path | None, as_json: bool
) -> None:
    """Show the live chunks of a volume in the order of their places."""
    found: list[Any] = []
    with _place(config_file, data, url) as place:
        list_chunks: Callable[..., list[Any]] = place.needles if isinstance(place, Engine) else place.volume_chunks
        while len(found) < limit:
            wanted = min(PAGE, limit - len(found))
            page = list_chunks(number, found[-1].offset if found else 0, wanted)
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


@volume.command()
@click.argument("number", type=click.IntRange(1), required=False, metavar="[VOLUME]")
@data_option
@config_option
@json_option
def verify(number: int | None, data: Path | None, config_file: Path | None, as_json: bool) -> None:
    """Read everything in a stopped server's directory, or one volume, and report each damaged chunk: then the status is
    1. Nothing is written. A running server is told to do so with `speedy volume scrub --url`."""
    with _stopped(read_settings(config_file), data) as engine:
        if number is None:
            engine.scrub_start()
            checked, damage = _run_round(engine, 0, as_json).checked_chunks, engine.scrub_damage()
        else:
            checked, damage = _verify_volume(engine, number)
    _report(checked, damage, as_json)


def _verify_volume(engine: Engine, number: int) -> tuple[int, list[Damage]]:
    checked, after = 0, 0
    damage: list[Damage] = []
    while page := engine.needles(number, after, PAGE):
        for chunk in page:
            try:
                engine.read_into(chunk.fid, 0, bytearray(chunk.length))
            except ChunkCorrupt as exc:
                damage.append(Damage(chunk.fid, number, chunk.offset, chunk.length, exc.detail, time.time()))
        checked += len(page)
        after = page[-1].offset
    return checked, damage


@volume.command()
@click.argument("fid", type=click.IntRange(1))
@data_option
@url_option
@config_option
def dump(fid: int, data: Path | None, url: str | None, config_file: Path | None) -> None:
    """Write the bytes of a chunk, verified, to standard output."""
    with _place(config_file, data, url) as place:
        payload = bytearray(place.info(fid).length)
        place.read_into(fid, 0, payload)
    sys.stdout.buffer.write(payload)
    sys.stdout.buffer.flush()


@volume.command()
@click.option("--fresh", is_flag=True, help="Begin a new round, even if one is under way.")
@click.option("--rate", metavar="SIZE", help='Bytes per second, like "64MiB" (default: chunkserver.scrub_bytes_s).')
@data_option
@url_option
@config_option
@json_option
def scrub(  # noqa: PLR0917 - click names them
    fresh: bool, rate: str | None, data: Path | None, url: str | None, config_file: Path | None, as_json: bool
) -> None:
    """Scrub now: go on with the round under way, or begin one, and wait for its end. The status is 1 when chunks are
    damaged. Of a running server, stopping this command does not stop the scrub."""
    bytes_s = None if rate is None else _rate(rate)
    if url is None:
        settings = read_settings(config_file)
        with _stopped(settings, data, writing=True) as engine:
            if fresh or not engine.scrub_status().active:
                engine.scrub_start()
            usual = settings.chunkserver.scrub_bytes_s
            told = _run_round(engine, usual if bytes_s is None else bytes_s, as_json)
            _report(told.checked_chunks, engine.scrub_damage(), as_json)
        return
    with _place(config_file, data, url) as store:
        assert isinstance(store, HttpChunkStore)
        status = store.start_scrub(fresh=fresh, bytes_s=bytes_s)
        with _progress(as_json) as show_progress:
            while status.rounds < status.round:
                show_progress(status.checked_bytes, status.total_bytes)
                if status.state == "paused":
                    raise click.ClickException("somebody has stopped the scrub; the same command lets it go on")
                time.sleep(POLL_S)
                status = store.scrub_status()
    _report(status.checked_chunks, list(status.damage), as_json)


def _rate(text: str) -> int:
    try:
        return Size(1).parse(text, Path())
    except (ValueError, OverflowError) as exc:
        raise click.BadParameter(f"{text!r} is not a number of bytes per second, or a size like 64MiB") from exc


@volume.command()
@click.option("--below", type=click.FloatRange(0, 1, min_open=True), default=0.7, show_default=True,
              help="Compact volumes whose live share is smaller.")  # fmt: skip
@data_option
@config_option
@json_option
def compact(below: float, data: Path | None, config_file: Path | None, as_json: bool) -> None:
    """Compact the volumes of a stopped server's directory. A running server does so by itself
    (chunkserver.compact_below)."""
    with _stopped(read_settings(config_file), data, writing=True) as engine:
        done = engine.compact(below)
    if as_json:
        click.echo(json.dumps(to_json(done), indent=1))
        return
    click.echo(
        f"Removed {done.volumes_removed} volumes, made {done.volumes_made}; copied {done.chunks_copied} chunks "
        f"({size(done.bytes_copied)}), gave {size(done.bytes_given_back)} back to the file system."
    )


def _run_round(engine: Engine, bytes_s: int, as_json: bool) -> Any:
    with _progress(as_json) as show_progress:
        while (told := engine.scrub_step(STEP_BYTES, bytes_s)).active:
            show_progress(told.checked_bytes, told.total_bytes)
            time.sleep(min(told.wait_s, 1.0))
    return told


@contextmanager
def _progress(as_json: bool) -> Iterator[Callable[[int, int], None]]:
    if as_json:
        yield lambda _done, _total: None
        return
    from rich import progress  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415 - slow to import, of no use to --json

    columns = (
        progress.BarColumn(),
        progress.DownloadColumn(True),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=max(total, 1))


def _report(checked: int, damage: list[Damage], as_json: bool) -> None:
    """What was found; ends with status 1 when something was."""
    if as_json:
        click.echo(json.dumps({"checked_chunks": checked, "damage": to_json(damage)}, indent=1))
    else:
        if damage:
            rows = [
                [one.what, str(one.fid or "superblock"), str(one.volume), str(one.offset), str(one.length)]
                for one in damage
            ]
            print_rows(["damage"], ["fid", "volume", "offset", "length"], rows)
        click.echo(f"{checked} chunks were checked; damaged places: {len(damage) or 'none'}.")
    if damage:
        raise SystemExit(1)
