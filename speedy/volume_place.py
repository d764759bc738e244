"""Where `speedy volume` looks: in the directory of a stopped server, or at a running one, which a URL names or the
directory that it has open.

A running embedded server is asked on its own address with the key in its directory; a running ChunkServer where the
group table that it keeps says that it is, with the cluster's key.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import click

from chunkserver.client import HttpChunkStore
from chunkserver.data_directory import Identity
from chunkserver.disks import Chunks
from chunkserver.engine_settings import engine_options
from chunkserver.interface import ChunkUpkeep
from chunkserver.opening import open_disks
from chunkserver.scrubbing import ScrubLimits
from chunkserver.table_file import GroupTableFile
from chunkserver.upkeep import COMPACT_BELOW, CompactionLimits, LocalUpkeep
from native.errors import EngineError, StoreLocked
from speedy.data_directory import IDENTITY_FILE, KEY_FILE
from speedy.options import read_settings
from speedy.reach import embedded_url, load_key
from wire.auth import ClusterKey
from wire.errors import BadRequest, SpeedyError, Unavailable
from wire.settings import Settings
from wire.values import from_json

#: nobody else uses a stopped server's disk
_UNBOUNDED_BYTES_S = 1 << 50
_NEVER_S = 1e9


class ChunkReader(Protocol):
    def info(self, fid: int) -> Any: ...

    def read_into(self, fid: int, offset: int, buffer: bytearray | memoryview) -> int: ...


@dataclass(frozen=True, slots=True)
class Place:
    """`running`: others use that server meanwhile."""

    upkeep: ChunkUpkeep
    chunks: ChunkReader
    running: bool


@contextmanager
def open_place(
    config_file: Path | None, data: Path | None, url: str | None, *, writing: bool = False
) -> Iterator[Place]:
    """A stopped server's directory is opened for reading only unless `writing`: not a byte of it changes."""
    if data is not None and url is not None:
        raise click.UsageError("--data is a server's directory, --url a running server: one of them")
    settings = read_settings(config_file)
    if url is not None:
        with _running(url, _cluster_key(settings)) as place:
            yield place
        return
    path = data or settings.chunkserver.data
    embedded = _embedded(path)
    chunks = path if embedded is None else embedded / "chunks"
    identity = _identity(chunks)
    own = chunks / "disk"
    has_own = identity.own_disk or not identity.disks or own.exists()
    disks = [Path(disk) for disk in identity.disks]
    options = replace(
        engine_options(settings.chunkserver, str(identity.cluster_id)),
        create=False,
        read_only=not writing,
        compact_below=0.0,
    )
    try:
        engine, _ = open_disks(chunks, own if has_own else None, disks, identity.disks, options)
    except StoreLocked:
        with _in_use(settings, embedded, chunks, identity.server_id) as place:
            yield place
        return
    except EngineError as exc:
        raise click.ClickException(str(exc)) from exc
    try:
        with closing(engine), _stopped(engine, settings, writing) as place:
            yield place
    except EngineError as exc:
        raise click.ClickException(str(exc)) from exc


def _embedded(path: Path) -> Path | None:
    """The embedded server's data directory that `path` is, or whose chunks it has."""
    for directory in (path, path.absolute().parent):
        if (directory / IDENTITY_FILE).exists() and (directory == path or path.name == "chunks"):
            return directory
    return None


def _identity(path: Path) -> Identity:
    try:
        identity = from_json(Identity, json.loads((path / "server.json").read_text("utf-8")))
    except (OSError, ValueError, BadRequest) as exc:
        raise click.ClickException(f"{path} is not a ChunkServer's directory: server.json cannot be read") from exc
    if identity.cluster_id is None:
        raise click.ClickException(f"the server of {path} has not joined a cluster yet: it holds no chunks")
    return identity


@contextmanager
def _stopped(engine: Chunks, settings: Settings, writing: bool) -> Iterator[Place]:
    own = settings.chunkserver
    upkeep = LocalUpkeep(
        engine,
        ScrubLimits(own.scrub_bytes_s or _UNBOUNDED_BYTES_S, every_s=_NEVER_S, first_after_s=_NEVER_S),
        CompactionLimits(own.compact_below or COMPACT_BELOW),
    )
    if writing:
        upkeep.start_upkeep()
    try:
        yield Place(upkeep, engine, running=False)
    finally:
        upkeep.stop_upkeep()


@contextmanager
def _in_use(settings: Settings, embedded: Path | None, chunks: Path, server_id: str) -> Iterator[Place]:
    """The running server that has this directory open."""
    if embedded is not None:
        try:
            url = embedded_url(embedded)
        except Unavailable as exc:
            raise click.ClickException(
                f"{embedded} is in use, and no server tells where it listens: one is starting, or another command has "
                "the volumes open"
            ) from exc
        with _running(url, load_key(embedded / KEY_FILE)) as place:
            yield place
        return
    with _running(_member_url(chunks, server_id), _cluster_key(settings), server_id) as place:
        yield place


def _member_url(chunks: Path, server_id: str) -> str:
    table = GroupTableFile(chunks / "group-table.json").table
    for group in table.groups if table is not None else ():
        for member in group.members:
            if member.server_id == server_id:
                return member.url
    raise click.ClickException(
        f"{chunks} is in use, and no group table tells where server {server_id} is: name a running one with --url"
    )


def _cluster_key(settings: Settings) -> ClusterKey:
    if settings.cluster.key_file is None:
        raise BadRequest("cluster.key_file is not set: a running server asks for the cluster's key")
    return load_key(settings.cluster.key_file)


@contextmanager
def _running(url: str, key: ClusterKey, server_id: str | None = None) -> Iterator[Place]:
    """`server_id`: who must answer there."""
    try:
        store = HttpChunkStore(url, key)
    except ValueError as exc:
        raise click.UsageError(str(exc)) from exc
    try:
        if server_id is not None:
            found = store.stat().server_id
            if found != server_id:
                raise click.ClickException(f"at {url} is server {found}, and not {server_id}: name it with --url")
        yield Place(store, store, running=True)
    except SpeedyError as exc:
        raise click.ClickException(f"{url}: {exc.message or exc.code}") from exc
    finally:
        store.close()
