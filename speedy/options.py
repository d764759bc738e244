"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from wire.settings import Settings
from wire.settings_load import load

config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML file (default: ./speedy.toml, then /etc/speedy/speedy.toml, if there is one).",
)

insecure_option = click.option(
    "--insecure-anonymous",
    is_flag=True,
    help="Listen on an address that other machines reach, although everybody may push, pull and delete.",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")


def read_settings(config_file: Path | None, options: Mapping[str, Any] | None = None) -> Settings:
    """Settings for a command; `options` are what its command line says ("section.key" -> value; None: not said)."""
    return load(config_file, options={key: str(value) for key, value in (options or {}).items() if value is not None})
