"""speedy config: what is set, where it comes from, and whether it is right."""

from __future__ import annotations

import json
from pathlib import Path

import click

from speedy.options import config_option, json_option, read_settings
from speedy.tables import print_rows
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
    print_rows(["setting", "value", "source", "meaning"], [], [(v.key, v.value, str(v.origin), v.says) for v in values])


@config.command()
@config_option
def check(config_file: Path | None) -> None:
    """Check the settings; all mistakes are told at once, and then the status is 1."""
    settings = read_settings(config_file)
    files = {origin.name for origin in settings.origins.values() if origin.kind == "file"}
    changed = f"{len(settings.origins)} set, the others default" if settings.origins else "all default"
    click.echo(f"The settings are good ({', '.join(sorted(files)) or 'no file'}; {changed}).")
