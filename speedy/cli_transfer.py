"""speedy push, speedy pull: images between a registry and this machine, gone on with where they were cut off."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from speedy.transfer.errors import Refused, Stopped, TransferError
from speedy.transfer.places import PlaceError
from wire.settings_values import MIB, Size

if TYPE_CHECKING:
    from speedy.transfer.outcome import Outcome
    from speedy.transfer.progress import Progress
    from speedy.transfer.transfers import TransferOptions

_Function = TypeVar("_Function", bound=Callable[..., Any])

_PIECE = Size(least=64 * 1024, most=1024 * MIB)
_AGAIN = "What has arrived is kept: the same command goes on from there."
_PLACES = """
    \b
    A local place is one of
      oci:DIR[:TAG]              an OCI layout directory (DIR alone will do)
      oci-archive:FILE[:TAG]     an OCI layout as a tar file
      docker-archive:FILE[:TAG]  what `docker save` writes (FILE.tar alone will do)
      docker-daemon:NAME         an image of the local docker

    A registry is [docker://]HOST[:PORT]/REPOSITORY[:TAG|@DIGEST]. Loopback addresses are spoken to over HTTP, all
    others over HTTPS; http:// or https:// in front, or --plain-http, says otherwise.

    Logins come from docker's own configuration (docker login; in $DOCKER_CONFIG or ~/.docker), or from --username and
    --password-stdin.
"""


def _size(_context: click.Context, _parameter: click.Parameter, value: str) -> int:
    try:
        return _PIECE.parse(value, Path())
    except ValueError:
        raise click.BadParameter(f"{value!r} is not {_PIECE.allowed}") from None


def _common(function: _Function) -> _Function:
    """Options of both directions."""
    for option in reversed(
        (
            click.option(
                "-j", "--jobs", type=click.IntRange(1, 64), default=4, show_default=True, help="Layers at once."
            ),
            click.option("--platform", metavar="OS/ARCH", help="Only this one of an image for several platforms."),
            click.option("--referrers", is_flag=True, help="Also what refers to the image: signatures, SBOMs."),
            click.option("--username", help="Log in as this user; needs --password-stdin."),
            click.option("--password-stdin", is_flag=True, help="Read the password from standard input."),
            click.option("--tls-verify", type=bool, default=True, help="false: take any certificate, or plain HTTP."),
            click.option(
                "--ca",
                "ca_file",
                type=click.Path(exists=True, dir_okay=False, path_type=Path),
                help="PEM file with the certificates to trust.",
            ),
            click.option("--plain-http/--https", default=None, help="How the registry is spoken to."),
            click.option(
                "--allow-http-credentials", is_flag=True, help="Send passwords over plain HTTP to other machines too."
            ),
            click.option(
                "--retries",
                type=click.IntRange(0, 1000),
                default=8,
                show_default=True,
                help="Failures in a row, without any progress between them, before giving up.",
            ),
            click.option(
                "--state-dir",
                type=click.Path(file_okay=False, path_type=Path),
                help="What the next run has to know (default: $XDG_CACHE_HOME/speedy or ~/.cache/speedy).",
            ),
            click.option("-q", "--quiet", is_flag=True, help="No progress; only the digest."),
            click.option("--json", "as_json", is_flag=True, help="Progress and result as one JSON object per line."),
        )
    ):
        function = option(function)
    return function


@click.command(short_help="Push an image to any registry; a push that was cut off goes on.", help=f"""
    Push an image from this machine to any OCI registry. Layers that are there already are skipped; a layer that was cut
    off, by Ctrl-C, a crash or a lost connection, goes on where it was: give the same command again.

    {_PLACES}
    \b
    Examples:
      speedy push oci:./image:v1 registry.example/team/app:v1
      speedy push app.tar registry.example:5000/team/app
      speedy push docker-daemon:app:v1 127.0.0.1:5000/team/app:v1 --jobs 8
    """)  # fmt: skip
@click.argument("src")
@click.argument("dest")
@click.option(
    "--piece",
    callback=_size,
    metavar="SIZE",
    default="64MiB",
    show_default=True,
    help="Bytes per request of an upload; a lost request costs so much at most.",
)
@click.option(
    "--mount-from", metavar="REPOSITORY", default="", help="Repository of the same registry that may have the layers."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["docker", "oci"]),
    default="docker",
    show_default=True,
    help="Form of the manifest that is made for images from docker.",
)
@click.option("--no-compression", is_flag=True, help="Layers from docker as they are, instead of gzip.")
@_common
def push(src: str, dest: str, **options: Any) -> None:
    with _told(options) as (progress, tell):
        from speedy.transfer import transfers  # noqa: PLC0415 - slow to import: mistakes are told before that

        tell(transfers.push(src, dest, _options(options), progress))


@click.command(short_help="Pull an image from any registry; a pull that was cut off goes on.", help=f"""
    Pull an image from any OCI registry to this machine. What is there already is skipped; a layer that was cut off goes
    on where it was: give the same command again. Every byte is checked against its digest.

    {_PLACES}
    \b
    Examples:
      speedy pull registry.example/team/app:v1 oci:./image
      speedy pull registry.example:5000/team/app app.tar --platform linux/arm64
      speedy pull 127.0.0.1:5000/team/app:v1 docker-daemon:app:v1
    """)  # fmt: skip
@click.argument("src")
@click.argument("dest")
@_common
def pull(src: str, dest: str, **options: Any) -> None:
    with _told(options) as (progress, tell):
        from speedy.transfer import transfers  # noqa: PLC0415

        tell(transfers.pull(src, dest, _options(options), progress))


def _options(given: dict[str, Any]) -> TransferOptions:
    from speedy.transfer.transfers import TransferOptions  # noqa: PLC0415

    username, reads_password = given.pop("username"), given.pop("password_stdin")
    if bool(username) != reads_password:
        raise click.UsageError("--username and --password-stdin belong together")
    if not given["tls_verify"]:
        import urllib3  # noqa: PLC0415

        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # it was asked for
    password = sys.stdin.read().rstrip("\r\n") if reads_password else ""
    names = {name: value for name, value in given.items() if name not in ("quiet", "as_json")}
    return TransferOptions(username=username or "", password=password, environment=dict(os.environ), **names)


@contextmanager
def _told(options: dict[str, Any]) -> Iterator[tuple[Progress, Callable[[Outcome], None]]]:
    """Progress, and the words or the JSON of the end, good or bad."""
    from speedy.transfer.progress import choose  # noqa: PLC0415

    as_json, quiet = options["as_json"], options["quiet"]
    progress = choose(quiet=quiet, as_json=as_json, is_terminal=sys.stderr.isatty())

    def result(outcome: Outcome) -> None:
        if as_json:
            progress.event("result", **outcome.as_json())
        elif quiet:
            click.echo(outcome.digest)
        else:
            click.echo(outcome.words(), err=True)
            click.echo(f"{outcome.reference} {outcome.digest}")

    try:
        yield progress, result
    except PlaceError as error:
        raise click.UsageError(error.message) from error
    except TransferError as error:
        # What no second try mends, the same command would meet again. A full registry may have space then.
        is_full = isinstance(error, Refused) and error.answered == 507
        again = error.retryable or is_full or isinstance(error, Stopped)
        if as_json:
            progress.event("error", message=error.message, again=again)
        raise click.ClickException(f"{error.message}\n{_AGAIN}" if again else error.message) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise click.ClickException(f"{where}{error.strerror or error}\n{_AGAIN}") from error
    except KeyboardInterrupt:
        click.echo(f"Interrupted. {_AGAIN}", err=True)
        raise click.Abort from None
