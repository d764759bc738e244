"""speedy chunkserver, chunkmaster, metaserver, imageserver, registry: one room, one process. And speedy migrate."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import click

from speedy.cli_serve import GRACEFUL_TIMEOUT_S, refuse_open_address
from speedy.options import config_option, insecure_option, read_settings
from wire import logs
from wire.settings import Settings
from wire.settings_values import Address


def _room(name: str, module: str, says: str, needs: tuple[str, ...]) -> click.Command:
    """The command that runs the room whose composition root is `module`; `needs`: settings without a usable default."""

    @click.option("--listen", metavar="HOST:PORT", help="Address to listen on.")
    @config_option
    def command(config_file: Path | None, listen: str | None, insecure_anonymous: bool = False) -> None:
        settings = read_settings(config_file, {f"{name}.listen": listen})
        _require(settings, needs)
        if name == "registry":
            refuse_open_address(settings, insecure_anonymous)
        logs.configure(settings.log.level, settings.log.format)
        sys.exit(_serve(name, module, settings))

    if name == "registry":
        command = insecure_option(command)
    return click.command(name=name, short_help=says, help=f"{says} Ctrl-C or SIGTERM ends it after running requests.")(
        command
    )


def _serve(name: str, module: str, settings: Settings) -> int:
    from wire import server  # noqa: PLC0415 - gunicorn takes a while to import: mistakes are told before that

    room = getattr(settings, name)
    # The registry's clients are strangers, and how long they may be silent is a setting.
    idle_timeout_s = settings.registry.body_idle_s if name == "registry" else server.IDLE_TIMEOUT_S
    listen: Address = room.listen

    def build() -> server.RoomApp:
        # In the worker only: the first process stays small.
        make: Callable[[Settings], server.RoomApp] = importlib.import_module(module).build
        return make(settings)

    return server.serve(
        build,
        host=listen.host,
        port=listen.port,
        threads=room.threads,
        name=f"speedy-{name}",
        graceful_timeout_s=GRACEFUL_TIMEOUT_S,
        idle_timeout_s=idle_timeout_s,
        on_listening=lambda host, port: click.echo(f"{name} listens on {host} port {port}", err=True),
    )


def _require(settings: Settings, keys: tuple[str, ...]) -> None:
    missing = []
    for key in keys:
        section, _, name = key.partition(".")
        if not getattr(getattr(settings, section), name):
            missing.append(key)
    if missing:
        raise click.ClickException(f"not set, but needed here: {', '.join(missing)} (see `speedy config show`)")


chunkserver = _room(
    "chunkserver",
    "chunkserver.wsgi",
    "Run a ChunkServer: it keeps chunks in one data directory.",
    ("cluster.key_file", "cluster.masters"),
)
chunkmaster = _room(
    "chunkmaster",
    "chunkmaster.wsgi",
    "Run a ChunkMaster: it knows groups and their health.",
    ("cluster.key_file", "database.url"),
)
metaserver = _room(
    "metaserver",
    "metaserver.wsgi",
    "Run a MetaServer: it knows names, files and their fragments.",
    ("cluster.key_file", "database.url"),
)
imageserver = _room(
    "imageserver",
    "imageserver.wsgi",
    "Run an ImageServer: it writes and reads all replicas.",
    ("cluster.key_file", "cluster.masters"),
)
registry = _room(
    "registry",
    "registry_driver.wsgi",
    "Run a registry front end: what docker talks to.",
    ("cluster.key_file", "cluster.metaservers", "cluster.imageservers"),
)


@click.command(short_help="Bring the database's schema to this version.")
@config_option
@click.option("--url", metavar="URL", help="The database (default: database.url of the settings).")
def migrate(config_file: Path | None, url: str | None) -> None:
    """Bring the database's schema to this version. Safe to run at any time, also by several at once."""
    settings = read_settings(config_file, {"database.url": url})
    _require(settings, ("database.url",))
    assert settings.database.url is not None
    from speedy.schema import migrate_each  # noqa: PLC0415 - slow to import, and of no use to the other commands

    url = settings.database.url
    click.echo(migrate_each(url, url, wait_s=settings.database.wait_s))
