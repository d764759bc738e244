"""speedy config: what is set, where it comes from, and whether it is right."""

from __future__ import annotations

import json
from pathlib import Path

import click

from speedy.options import config_option, json_option, read_settings
from wire.settings_load import effective, environment_name


@click.group(short_help="Show or check the settings in force.")
def config() -> None:
    """The settings in force: one TOML file, and a variable SPEEDY_<SECTION>_<KEY> for every key."""


@config.command()
@config_option
@json_option
def show(config_file: Path | None, as_json: bool) -> None:
    """Show every setting, its value and where it comes from. Passwords are hidden."""
    values = list(effective(read_settings(config_file)))
    if as_json:
        rows = [
            {
                "key": v.key,
                "value": v.value,
                "source": v.origin.kind,
                "from": v.origin.name,
                "variable": environment_name(v.key),
                "allowed": v.allowed,
                "meaning": v.says,
            }
            for v in values
        ]
        click.echo(json.dumps(rows, indent=1))
        return
    from rich.console import Console  # noqa: PLC0415 - slow to import, of no use to --json
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table()
    table.add_column("setting", no_wrap=True, min_width=max(len(value.key) for value in values))  # to be copied whole
    for heading in ("value", "source", "meaning"):
        table.add_column(heading, overflow="fold")
    for value in values:
        told = value.origin.kind != "default"
        style = "bold" if told else ""
        table.add_row(value.key, escape(value.value), escape(str(value.origin)), escape(value.says), style=style)
    Console().print(table)


@config.command()
@config_option
def check(config_file: Path | None) -> None:
    """Check the settings; all mistakes are told at once, and then the status is 1."""
    settings = read_settings(config_file)
    files = {origin.name for origin in settings.origins.values() if origin.kind == "file"}
    click.echo(
        f"The settings are good ({', '.join(sorted(files)) or 'no file'}; {len(settings.origins)} are not defaults)."
    )
