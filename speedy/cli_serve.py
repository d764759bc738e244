"""speedy serve: the whole registry in one process, on one data directory."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from speedy.data_directory import ADDRESS_FILE, ServerData, open_data
from speedy.options import config_option, insecure_option, read_settings
from wire import logs
from wire.settings import Settings

if TYPE_CHECKING:
    from wire.server import RoomApp

#: running requests may take so long after SIGTERM or Ctrl-C
GRACEFUL_TIMEOUT_S = 20.0


@click.command(short_help="Run the whole registry in one process (SQLite, one data directory).")
@click.option("--data", metavar="DIRECTORY", help="Directory for everything that is stored (default: ./data).")
@click.option(
    "--listen", metavar="HOST:PORT", help="Address to listen on (default: 127.0.0.1:5000; port 0: any free one)."
)
@config_option
@insecure_option
def serve(data: str | None, listen: str | None, config_file: Path | None, insecure_anonymous: bool) -> None:
    """Run the whole registry in one process: SQLite, one data directory, nothing else to set up.

    Ctrl-C or SIGTERM ends it after the requests that are running.
    """
    settings = read_settings(config_file, {"registry.data": data, "registry.listen": listen})
    refuse_open_address(settings, insecure_anonymous)
    logs.configure(settings.log.level, settings.log.format)
    sys.exit(run(settings))


def run(settings: Settings) -> int:
    """Serve until a signal ends it; the exit code."""
    from wire import server  # noqa: PLC0415 - gunicorn takes a while to import: mistakes are told before that

    held = open_data(settings.registry.data)
    try:
        code = server.serve(
            partial(_build, settings, held),
            host=settings.registry.listen.host,
            port=settings.registry.listen.port,
            threads=settings.registry.threads,
            name="speedy",
            graceful_timeout_s=GRACEFUL_TIMEOUT_S,
            idle_timeout_s=settings.registry.body_idle_s,
            on_listening=partial(_welcome, held),
        )
        if code == server.EXIT_BIND_FAILED:
            click.echo(
                "Choose another address: --listen HOST:PORT, or make serve LISTEN=HOST:PORT (port 0: any free one).",
                err=True,
            )
        return code
    finally:
        (held.path / ADDRESS_FILE).unlink(missing_ok=True)
        held.close()


def refuse_open_address(settings: Settings, insecure_anonymous: bool) -> None:
    """Without access control only this machine may reach the registry, unless somebody says otherwise."""
    host = settings.registry.listen.host
    if insecure_anonymous or _is_loopback(host):
        return
    raise click.ClickException(
        f"refusing to listen on {settings.registry.listen}: no access control is set up, so everybody who reaches this "
        "address could push, pull and delete images. Listen on 127.0.0.1 (behind a proxy that asks for passwords), or "
        "give --insecure-anonymous (make serve ARGS=--insecure-anonymous) if that is what you want."
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as exc:
        raise click.ClickException(f"cannot listen on {host}: {exc.strerror or exc}") from exc
    return all(ipaddress.ip_address(str(entry[4][0])).is_loopback for entry in found)


def _build(settings: Settings, held: ServerData) -> RoomApp:
    from speedy import allinone  # noqa: PLC0415 - in the worker only: the first process stays small

    return allinone.build(settings, held)


def _welcome(held: ServerData, host: str, port: int) -> None:
    """In the first process, once the port is ours."""
    shown = f"[{host}]" if ":" in host else host
    temporary = held.path / f"{ADDRESS_FILE}.tmp"
    try:
        temporary.write_text(json.dumps({"url": f"http://{shown}:{port}", "pid": os.getpid()}))
        temporary.rename(held.path / ADDRESS_FILE)
    except OSError as exc:
        # A full disk is no reason to stay away: what is on it can be pulled, and deleted.
        click.echo(f"The address could not be noted for `speedy status --data`: {exc}", err=True)
    # An address that docker speaks HTTP to; it takes none of IPv6 in the name of an image.
    name = {"0.0.0.0": "127.0.0.1", "::": "localhost", "::1": "localhost"}.get(host, shown)  # noqa: S104
    bold, plain = ("\x1b[1m", "\x1b[0m") if sys.stdout.isatty() and "NO_COLOR" not in os.environ else ("", "")
    click.echo(
        f"Speedy Registry listens on {bold}http://{shown}:{port}{plain}, its data is in {bold}{held.path}{plain}\n"
        "Push a first image:\n"
        f"  docker tag IMAGE {name}:{port}/first/image\n"
        f"  docker push {name}:{port}/first/image\n"
        f"or, without docker: skopeo copy --dest-tls-verify=false SOURCE docker://{name}:{port}/first/image\n"
        "Ctrl-C ends it."
    )
    sys.stdout.flush()  # before the fork, or the worker would print it again
