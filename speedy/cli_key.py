"""speedy key: the secret that all rooms of a cluster share."""

from __future__ import annotations

from pathlib import Path

import click

from wire.auth import ClusterKey


@click.group(short_help="Make the key that all rooms of a cluster share.")
def key() -> None:
    """The key with which rooms prove to each other that they belong together."""


@key.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def generate(file: Path) -> None:
    """Make a new key in FILE (readable by its owner only). An existing file is never replaced."""
    if file.exists():
        raise click.ClickException(
            f"{file} exists already; a cluster that uses it would fall apart. Nothing was changed."
        )
    try:
        ClusterKey.generate().save(file)
    except OSError as exc:
        raise click.ClickException(f"{file} cannot be written: {exc.strerror}") from exc
    click.echo(
        f"Wrote a new cluster key to {file}. Copy it to all machines of the cluster, and name it in [cluster] key_file."
    )
